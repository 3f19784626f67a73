"""The parts of a report on evaluations, before they are a page."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cp_ray.evals.nulls import BASE, HUMAN, NULLS
from cp_ray.records import Score

__all__ = ["Figure", "Section", "Table", "Way", "ordered", "shown", "ways_notes"]


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of text under headings."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart."""

    title: str
    svg: str
    wide: bool = False
    """It has the page's whole width."""


@dataclass(frozen=True, slots=True)
class Section:
    """One evaluation."""

    title: str
    said: tuple[str, ...]
    """What it comes to, in sentences."""
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    """How the figures are to be read, and what was left out."""
    folded: tuple[Table, ...] = ()
    """Tables that are opened one by one."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a model was asked for its answers."""

    model: str
    way: str
    n: int
    """Items."""
    lost: int = 0
    """Of these, those to which no answer came."""


def ways_notes(ways: Sequence[Way]) -> tuple[str, ...]:
    """Which models were asked in which way, and to how many items no answer came, a sentence each."""
    by_way: dict[str, list[str]] = {}
    for one in ways:
        by_way.setdefault(one.way, []).append(one.model)
    told = "; ".join(f"{', '.join(ordered(models))}: {way}" for way, models in by_way.items())
    lost = ", ".join(f"{one.model} {one.lost} of {one.n}" for one in ways if one.lost)
    return (
        *([f"How each model's answers were found: {told}."] if told else []),
        *([f"Items to which no answer came, and which count in none of the model's figures: {lost}."] if lost else []),
    )


def shown(score: Score | None, digits: int = 3) -> str:
    """A figure with its interval, where it has one; a dash where there is no figure."""
    if score is None:
        return "–"
    if math.isnan(score.low):
        return f"{score.value:.{digits}f}"
    return f"{score.value:.{digits}f} [{score.low:.{digits}f}, {score.high:.{digits}f}]"


def ordered(models: Iterable[str], first: Sequence[str] = NULLS) -> list[str]:
    """The answerers that know nothing, the base, the models, the people."""
    names = list(dict.fromkeys(models))
    fixed = [m for m in (*first, BASE) if m in names]
    return [*fixed, *(m for m in names if m not in (*fixed, HUMAN)), *(m for m in names if m == HUMAN)]
