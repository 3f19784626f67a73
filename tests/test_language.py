from dataclasses import replace

import pytest

from cp_ray.cultures import CULTURES
from cp_ray.language import UNDETERMINED, Languages, codes_of

DUTY = {
    "ar": "أعتقد أن العمل واجب تجاه المجتمع.",
    "bn": "আমি মনে করি কাজ সমাজের প্রতি একটি কর্তব্য।",
    "de": "Ich denke, dass Arbeit eine Pflicht gegenüber der Gesellschaft ist.",
    "el": "Πιστεύω ότι η εργασία είναι καθήκον προς την κοινωνία.",
    "en": "I think that work is a duty towards society.",
    "es": "Creo que el trabajo es un deber hacia la sociedad.",
    "ko": "나는 일이 사회에 대한 의무라고 생각한다.",
    "pt": "Acho que o trabalho é um dever para com a sociedade.",
    "tr": "Bence çalışmak topluma karşı bir görevdir.",
    "zh": "我认为工作是对社会的责任。",
}


@pytest.fixture(scope="module")
def languages() -> Languages:
    return Languages(codes_of(CULTURES.values()))


def test_the_languages_of_all_cultures_are_told_apart(languages: Languages) -> None:
    assert codes_of(CULTURES.values()) == tuple(DUTY)
    for code, text in DUTY.items():
        found, probability = languages(text)
        assert found == code
        assert 0.99 < probability <= 1


@pytest.mark.parametrize("text", ["", "12 34 56", "?!", "\n"])
def test_where_nothing_tells_the_language_is_undetermined(languages: Languages, text: str) -> None:
    code, probability = languages(text)
    assert code == UNDETERMINED
    assert probability == pytest.approx(1 / len(DUTY))


@pytest.mark.parametrize("text", ["\ud800", "Ω ≠ 5", "x" * 20_000, "INSHA'ALLAH, MY FAMILY COMES FIRST."])
def test_odd_texts_break_nothing(languages: Languages, text: str) -> None:
    code, probability = languages(text)
    assert code in {*DUTY, UNDETERMINED}
    assert 0 < probability <= 1


def test_a_text_in_a_language_of_nobody_s_is_still_not_english(languages: Languages) -> None:
    assert languages("Je pense que le travail est un devoir envers la société.")[0] != "en"


def test_a_culture_of_the_user_s_brings_its_language() -> None:
    french = replace(CULTURES["german"], locales=("fr-FR", "fr"))
    assert codes_of([french]) == ("en", "fr")
    assert Languages(codes_of([french]))("Je pense que le travail est un devoir.")[0] == "fr"
    unknown = replace(CULTURES["german"], locales=("xx",))
    assert Languages(codes_of([unknown, french]))(DUTY["en"])[0] == "en"
