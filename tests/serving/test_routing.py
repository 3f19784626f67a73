from dataclasses import replace

import pytest

from cp_ray.errors import ConfigError
from cp_ray.serving.chat import ModelCard
from cp_ray.serving.keys import Key, Keys
from cp_ray.serving.routing import Asked, Router, UnknownModel, check_keys, languages_accepted

GERMAN = ModelCard("german", "b", "german", locales=("de", "de-DE"), aliases=("de-model",))
BRAZIL = ModelCard("portuguese", "b", "portuguese", locales=("pt", "pt-BR"))
SPAIN, LATIN = (
    ModelCard("spain", "b", "spain", locales=("es", "es-ES")),
    ModelCard("spanish", "b", "spanish", locales=("es", "es-AR", "es-MX")),
)
UNIFIED, BASE = ModelCard("unified", "b"), ModelCard("base", "b")
ALL = (GERMAN, BRAZIL, SPAIN, LATIN, UNIFIED, BASE)

EVERYTHING = Asked("german", "portuguese", "spain", "es-AR", "em português")


def identify(text: str) -> str | None:
    return "pt" if "português" in text else "es" if "español" in text else None


def routed(asked: Asked, cards: tuple[ModelCard, ...] = ALL) -> tuple[str, str]:
    found = Router(cards, identify).route(asked)
    return found.card.id, found.why


def test_what_is_said_comes_before_what_is_inferred() -> None:
    asked = EVERYTHING
    assert routed(asked) == ("german", "model")
    asked = replace(asked, model="auto")
    assert routed(asked) == ("portuguese", "culture")
    asked = replace(asked, culture="")
    assert routed(asked) == ("spain", "key")
    asked = replace(asked, default="")
    assert routed(asked) == ("spanish", "accept-language es-ar")
    asked = replace(asked, accept_language="")
    assert routed(asked) == ("portuguese", "language pt")
    assert routed(replace(asked, text="?")) == ("unified", "unified")


@pytest.mark.parametrize(
    ("name", "model"), [("german", "german"), ("de-model", "german"), ("culture/german", "german"), ("base", "base")]
)
def test_a_model_has_several_names(name: str, model: str) -> None:
    assert routed(Asked(name)) == (model, "model")


@pytest.mark.parametrize("asked", [Asked("klingon"), Asked("auto", "klingon"), Asked("auto", "", "klingon")])
def test_an_unknown_name_is_never_answered_by_another_model(asked: Asked) -> None:
    with pytest.raises(UnknownModel, match=r"'klingon' is not served; known: german"):
        routed(replace(asked, accept_language="de", text="português"))


@pytest.mark.parametrize(
    ("header", "model"),
    [
        ("de-AT", "german"),  # no such region: by language
        ("es-ES", "spain"),
        ("es-MX;q=0.9, de;q=0.5", "spanish"),
        ("fr, de;q=0.4", "german"),
        ("es", "unified"),  # two models speak it
        ("de;q=0", "unified"),
        ("*", "unified"),
        ("DE-de", "german"),
        ("de;q=much", "unified"),
        (",;,=;q=", "unified"),
        ("de-\x01", "unified"),
    ],
)
def test_accept_language_decides_by_region_then_by_language(header: str, model: str) -> None:
    assert routed(Asked("auto", accept_language=header))[0] == model


def test_a_language_that_two_models_speak_is_not_guessed() -> None:
    assert routed(Asked("auto", text="en español")) == ("unified", "unified")
    assert routed(Asked("auto", text="en español"), (GERMAN, LATIN)) == ("spanish", "language es")


def test_without_a_unified_model_auto_says_that_it_found_none() -> None:
    with pytest.raises(UnknownModel, match="no unified model is served; name one of german, base"):
        routed(Asked("auto"), (GERMAN, BASE))


def test_a_key_s_culture_is_a_culture_and_no_model_s_name() -> None:
    cards = (replace(GERMAN, id="de-v2"), replace(BASE, id="german"))
    assert routed(Asked("auto", default="german"), cards) == ("de-v2", "key")


@pytest.mark.parametrize(
    ("models", "culture", "message"),
    [
        (("germann",), "", "k: models: 'germann' is not served; known: german, portuguese, base; correct it"),
        (("german", "de-model"), "", "k: models: 'de-model' is not served"),
        (None, "klingon", "k: culture: 'klingon' is not served; known: german, portuguese; correct it, or leave it"),
        (("base", "german"), "portuguese", "k: culture: 'portuguese' is not served; known: german;"),
    ],
)
def test_what_a_key_names_and_is_not_served_is_told_at_the_start(
    models: tuple[str, ...] | None, culture: str, message: str
) -> None:
    cards = (GERMAN, BRAZIL, BASE)
    check_keys(Keys([Key("all"), Key("german", models=("german", "base"), culture="german")]), cards)
    with pytest.raises(ConfigError, match=f"^keys: {message}"):
        check_keys(Keys([Key("k", models=models, culture=culture)]), cards)


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="'german' stands for two"):
        Router((GERMAN, replace(BASE, aliases=("german",))), None)
    with pytest.raises(ConfigError, match="'auto'"):
        Router((replace(BASE, aliases=("auto",)),), None)


def test_tags_are_ordered_by_weight() -> None:
    assert languages_accepted("da, en-GB;q=0.8, en;q=0.7, *;q=0.1, x;q=2") == ["da", "en-gb", "en"]
