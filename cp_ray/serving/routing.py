"""Which model answers: what a client says comes before what can be inferred, and every choice says why it was made."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cp_ray.errors import ConfigError
from cp_ray.serving.chat import BadRequest, ModelCard
from cp_ray.serving.keys import Keys

__all__ = ["AUTO", "UNIFIED", "Asked", "Identify", "Routed", "Router", "UnknownModel", "check_keys"]

_TAG = re.compile("[a-z]{1,8}(-[a-z0-9]{1,8})*")
AUTO, UNIFIED = "auto", "unified"


class UnknownModel(BadRequest):
    """No model has this name."""

    code = "model_not_found"


class Identify(Protocol):
    """Tells the language of a text."""

    def __call__(self, text: str) -> str | None:
        """Its ISO 639 code; None where it is not sure, or where none of the known languages is it."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request tells of the model that is to answer it."""

    model: str
    culture: str = ""
    """From the body or a header."""
    default: str = ""
    """The caller's own culture."""
    accept_language: str = ""
    text: str = ""
    """The last thing the user says."""


@dataclass(frozen=True, slots=True)
class Routed:
    """The choice."""

    card: ModelCard
    why: str
    """`model`, `culture`, `key`, `accept-language <tag>`, `language <code>` or `unified`."""


class Router:
    """Chooses among the models that are served."""

    def __init__(self, cards: Sequence[ModelCard], identify: Identify | None) -> None:
        """Know the models.

        Args:
            cards: of the models.
            identify: tells languages; None: texts say nothing.

        Raises:
            ConfigError: two models have one name.
        """
        self.cards = tuple(cards)
        """The models."""
        self._names: dict[str, ModelCard] = {}
        for card in cards:
            also = [f"culture/{card.culture}"] if card.culture else []
            for name in (card.id, *card.aliases, *also):
                if name == AUTO or (name in self._names and name in (card.id, *card.aliases)):
                    raise ConfigError(f"models: {name!r} stands for two things; give each model names of its own")
                self._names.setdefault(name, card)
        self._identify = identify

    @property
    def known(self) -> list[str]:
        """Every name that may be asked for."""
        return [*(card.id for card in self.cards), AUTO]

    def named(self, name: str, field: str = "model") -> ModelCard:
        """The model of this name.

        Raises:
            UnknownModel: there is none.
        """
        if name not in self._names:
            raise UnknownModel(f"{field}: {name[:100]!r} is not served; known: {', '.join(self.known)}")
        return self._names[name]

    def of_culture(self, culture: str, field: str = "culture") -> ModelCard:
        """The model that speaks for a culture.

        Raises:
            UnknownModel: there is none.
        """
        found = next((card for card in self.cards if card.culture == culture), None)
        if found is None and culture in self._names:
            found = self._names[culture]
        if found is None:
            known = ", ".join(card.culture for card in self.cards if card.culture) or "none"
            raise UnknownModel(f"{field}: {culture[:100]!r} is not served; known: {known}")
        return found

    def route(self, asked: Asked) -> Routed:
        """Choose.

        Raises:
            UnknownModel: a name is unknown, or nothing tells which model is meant and no unified one is served.
        """
        if asked.model != AUTO:
            return Routed(self.named(asked.model), "model")
        if asked.culture:
            return Routed(self.of_culture(asked.culture), "culture")
        if asked.default:
            return Routed(self.of_culture(asked.default, "key's culture"), "key")
        for tag in languages_accepted(asked.accept_language):
            card = self._by_region(tag) or self._by_language(tag.split("-")[0])
            if card is not None:
                return Routed(card, f"accept-language {tag}")
        code = self._identify(asked.text) if self._identify is not None and asked.text else None
        card = self._by_language(code) if code else None
        if card is not None:
            return Routed(card, f"language {code}")
        if UNIFIED in self._names:
            return Routed(self._names[UNIFIED], UNIFIED)
        raise UnknownModel(
            f"model: 'auto' found no culture in this request and no unified model is served; "
            f"name one of {', '.join(self.known[:-1])}"
        )

    def _by_region(self, tag: str) -> ModelCard | None:
        return self._only(tag, lambda locale: locale)

    def _by_language(self, code: str) -> ModelCard | None:
        return self._only(code, lambda locale: locale.split("-")[0])

    def _only(self, wanted: str, part: Callable[[str], str]) -> ModelCard | None:
        """The one model that it fits; two that it fits would be a guess."""
        fitting = [card for card in self.cards if wanted in {part(locale).lower() for locale in card.locales}]
        return fitting[0] if len(fitting) == 1 else None


def check_keys(keys: Keys, cards: Sequence[ModelCard]) -> None:
    """Whether all that keys name is served.

    Raises:
        ConfigError: one names a model that is not, or a culture for which none of its models speaks.
    """
    ids = [card.id for card in cards]
    for key in keys:
        unknown = next((id for id in key.models or () if id not in ids), None)
        if unknown is not None:
            raise ConfigError(
                f"keys: {key.name}: models: {unknown[:100]!r} is not served; known: {', '.join(ids)}; correct it"
            )
        try:
            if key.culture:
                Router([card for card in cards if key.allows(card.id)], None).of_culture(key.culture)
        except UnknownModel as error:
            raise ConfigError(f"keys: {key.name}: {error}; correct it, or leave it out") from error


def languages_accepted(header: str) -> list[str]:
    """The tags of an Accept-Language header in small letters, the most wanted first (RFC 9110, section 12.5.4)."""
    weighted: list[tuple[float, str]] = []
    for part in header[:1_000].split(","):
        tag, _, parameter = part.strip().partition(";")
        name, _, value = parameter.strip().partition("=")
        try:
            weight = float(value) if name.strip() == "q" else 1.0
        except ValueError:
            continue
        if _TAG.fullmatch(tag.strip().lower()) and 0 < weight <= 1:
            weighted.append((weight, tag.strip().lower()))
    return [tag for _, tag in sorted(weighted, key=lambda pair: -pair[0])]
