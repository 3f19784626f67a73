"""The one form that every survey is read into: a question, its scale, and how each country answered.

What a reader may leave out is said here once: an answer that is none (don't know, refused, not asked) is on no
scale, and a country that was not asked has no entry.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["AnswerShares", "Item", "Source", "Survey", "code_of", "pooled", "shares_of", "short_hash"]


@dataclass(frozen=True, slots=True)
class AnswerShares:
    """A distribution over a scale's options."""

    shares: tuple[float, ...]
    respondents: int
    """How many people gave one of the options, whatever their weights; 0 where the survey does not tell."""


@dataclass(frozen=True, slots=True)
class Item:
    """One survey question."""

    id: str
    topic: str
    question: str
    options: tuple[str, ...]
    """In the order of the scale, so that neighbours are the most alike."""
    answers: Mapping[str, AnswerShares]
    """By country: as `code_of` gives it."""


@dataclass(frozen=True, slots=True)
class Source:
    """Which survey rows come from, as a model card and a report tell it."""

    id: str
    """On every seed: `wvs7`, `goqa`, or the name of the user's file."""
    name: str
    """Within a sentence."""
    terms: str = ""
    """What its users owe; one paragraph."""


@dataclass(frozen=True, slots=True)
class Survey:
    """A survey as it was read."""

    source: Source
    items: tuple[Item, ...]

    @property
    def content(self) -> str:
        """16 hex digits that change with a question's words, its scale, or an answer."""
        body = [dataclasses.asdict(item) for item in self.items]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def shares_of(weights: Sequence[float], respondents: int) -> AnswerShares | None:
    """The distribution of what each option weighs; None where nobody answered."""
    total = sum(weights)
    if not 0 < total < math.inf:
        return None
    return AnswerShares(tuple(weight / total for weight in weights), respondents)


def pooled(item: Item, countries: Iterable[str]) -> AnswerShares | None:
    """The answers of some countries together, each weighing the same however many were asked there.

    None where no country was asked. The respondents are told only if each country tells them.
    """
    codes = dict.fromkeys(code_of(country) for country in countries)  # a culture may name one by code and by name
    asked = [item.answers[code] for code in codes if code in item.answers]
    if not asked:
        return None
    shares = tuple(sum(one.shares[k] for one in asked) / len(asked) for k in range(len(item.options)))
    told = all(one.respondents for one in asked)
    return AnswerShares(shares, sum(one.respondents for one in asked) if told else 0)


_CODES = {
    name.casefold(): code
    for code, names in {
        "ARG": "Argentina",
        "BGD": "Bangladesh",
        "BRA": "Brazil",
        "CHN": "China",
        "DEU": "Germany",
        "EGY": "Egypt",
        "GRC": "Greece",
        "IRQ": "Iraq",
        "JOR": "Jordan",
        "KOR": "South Korea|S. Korea|Korea South|Republic of Korea|Korea, Republic of|Korea, South",
        "LBN": "Lebanon",
        "LBY": "Libya",
        "MAR": "Morocco",
        "MEX": "Mexico",
        "TUN": "Tunisia",
        "TUR": "Turkey|Türkiye|Turkiye",
        "USA": "United States|United States of America|U.S.A.|U.S.|US",
    }.items()
    for name in (code, *names.split("|"))
}


def code_of(country: str) -> str:
    """The ISO 3166 alpha-3 code of a shipped culture's country; any other country as it stands.

    A survey's readers and a culture's list both go through this, so that `KOR`, `South Korea` and `S. Korea` meet.
    """
    country = " ".join(country.split())
    return _CODES.get(country.casefold(), country)


def short_hash(text: str) -> str:
    """Ten hex digits of a text, to make an id of a question that has none."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]
