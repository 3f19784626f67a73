"""How far a model's dimensions are from the published ones, and whether it has the cultures in their order.

An answer that names no option is missing, never a number: the originals put 10 for it, which moves a dimension by
hundreds. Distances are root mean squares over the dimensions that a culture has, so that one with two known dimensions
is not nearer for it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cp_ray.errors import ConfigError
from cp_ray.evals.hofstede.correlations import pearsons, spearmans
from cp_ray.evals.hofstede.figures import figures, means_of
from cp_ray.evals.hofstede.formulas import DIMENSIONS, ITEMS, Published, indices
from cp_ray.evals.hofstede.items import TASK
from cp_ray.evals.intervals import Interval, studentised
from cp_ray.records import Prediction, Score

__all__ = [
    "ALL", "CONSTANT", "OWN", "RANDOM", "HofstedeScoring", "Truth", "hofstede_scores", "published_of", "respondents",
    "same_people",
]  # fmt: skip

CONSTANT, RANDOM = "constant", "random"
"""Answerers: always 3; any answer, by lot."""

OWN = "own"
"""The adapters together, each for its own culture."""

ALL = "all"
"""The culture of figures over all cultures."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Truth:
    """A culture's published scores."""

    culture: str
    scores: tuple[float | None, ...]
    """In the order of `DIMENSIONS`."""


@dataclass(frozen=True)
class HofstedeScoring:
    """What is held against what."""

    truth: tuple[Truth, ...]
    resamples: int = 2000
    seed: int = 0
    interval: str = "studentised, over people"
    """Bootstrap; the only one there is, here so that a change of it changes the step's fingerprint."""

    def __post_init__(self) -> None:
        if self.resamples < 100:
            raise ConfigError(f"resamples: must be at least 100 for a 95 % interval, got {self.resamples}")


def published_of(rows: Mapping[str, Published], names: Mapping[str, str]) -> tuple[Truth, ...]:
    """The published scores of cultures, given the name of each one's row (empty for none).

    Raises:
        ConfigError: the file has no such row.
    """
    missing = next((name for name in names.values() if name and name not in rows), None)
    if missing is not None:
        raise ConfigError(f"hofstede: there is no row {missing!r} among {len(rows)}; correct the culture's `hofstede`")
    return tuple(
        Truth(culture, tuple(rows[name].scores.get(d) if name else None for d in DIMENSIONS))
        for culture, name in names.items()
    )


def hofstede_scores(predictions: Iterable[Prediction], config: HofstedeScoring) -> list[Score]:
    """For each model: dimensions and distance of each culture, correlations over all; beside two answerers."""
    cultures = [truth.culture for truth in config.truth]
    answers = respondents(predictions, cultures)
    people = max((len(one) for own in answers.values() for one in own.values()), default=30)
    rng = np.random.default_rng(config.seed)
    answers[CONSTANT] = {c: np.full((people, len(ITEMS)), 3.0) for c in cultures}
    answers[RANDOM] = {c: rng.integers(1, 6, (people, len(ITEMS))).astype(np.float64) for c in cultures}
    return [score for model, told in answers.items() for score in _model_scores(model, told, config)]


def respondents(predictions: Iterable[Prediction], cultures: Sequence[str]) -> dict[str, dict[str, Array]]:
    """Of each model, `OWN` among them, and culture: answers [respondents, 24] from 1 to 5, NaN where there is none.

    Args:
        predictions: rows of other evaluations are passed over.
        cultures: those that `OWN` is of.
    """
    found: dict[tuple[str, str], dict[tuple[int, int], float]] = defaultdict(dict)
    for p in predictions:
        if p.task != TASK:
            continue
        _, culture, respondent, number = p.item.split("/")
        # The mean of the model's answers to this respondent's question.
        mean = sum(k * share for k, share in enumerate(p.probabilities, 1)) if p.reject is None else np.nan
        found[p.model, culture][int(respondent), int(number)] = mean
    answers: dict[str, dict[str, Array]] = defaultdict(dict)
    for (model, culture), given in found.items():
        table = np.full((1 + max(r for r, _ in given), len(ITEMS)), np.nan)
        for (person, item), mean in given.items():
            table[person, item - 1] = mean
        answers[model][culture] = table
    own = {c: answers[c][c] for c in cultures if c in answers and c in answers[c]}
    return {**answers, OWN: own} if own else dict(answers)


def _model_scores(model: str, answers: Mapping[str, Array], config: HofstedeScoring) -> list[Score]:
    truth = {t.culture: np.array([np.nan if s is None else s for s in t.scores]) for t in config.truth}
    cultures = [c for c in truth if c in answers]
    if not cultures:
        return []
    known = np.array([truth[c] for c in cultures])  # [cultures, 6]
    told = same_people([indices(answers[c]) for c in cultures])  # [cultures, people, 6]
    people = told.shape[1]
    draws = np.random.default_rng(config.seed).multinomial(people, np.full(people, 1 / people), config.resamples)
    found, drawn = figures(told, known, np.ones((1, people))), figures(told, known, draws.astype(np.float64))
    n = (~np.isnan(told)).sum(axis=1)
    scores = []
    for c, culture in enumerate(cultures):
        for d, name in enumerate(DIMENSIONS):
            of = Figure(found.fitted, found.fitted_error, drawn.fitted, drawn.fitted_error, (c, d), (-np.inf, np.inf))
            scores += _score(model, culture, name, of, people, int(n[c, d]))
        of = Figure(found.distance, found.distance_error, drawn.distance, drawn.distance_error, (c,), (0.0, np.inf))
        scores += _score(model, culture, "distance", of, people, int((~np.isnan(found.fitted[0, c] - known[c])).sum()))
    return scores + _correlations(model, told, known)


def same_people(answers: Sequence[Array]) -> Array:
    """One table [cultures, people, 6]; whoever was not asked in a culture has no answer there."""
    people = max(map(len, answers))
    padded = [np.pad(one, ((0, people - len(one)), (0, 0)), constant_values=np.nan) for one in answers]
    return np.stack(padded)


def _correlations(model: str, told: Array, known: Array) -> list[Score]:
    """Pearson's r and Spearman's rho over the cultures, which no constant changes; from three cultures on.

    They have no interval: what is uncertain of them is which cultures there are, and that no drawing of people tells.
    """
    means = means_of(told, np.ones((1, told.shape[1])))
    n = (~np.isnan(known) & ~np.isnan(means[0])).sum(axis=0)
    found = {"pearson": pearsons(means, known), "spearman": spearmans(means, known)}
    return [
        Score(model, ALL, TASK, f"{kind}_{name}", float(values[0, d]), np.nan, np.nan, int(n[d]))
        for d, name in enumerate(DIMENSIONS)
        for kind, values in found.items()
        if not np.isnan(values[0, d])
    ]


@dataclass(frozen=True, slots=True)
class Figure:
    """One of a model's figures."""

    found: Array
    error: Array
    drawn: Array
    drawn_error: Array
    place: tuple[int, ...]
    """In all of these, after the resample."""
    bounds: tuple[float, float]

    def interval(self, people: int) -> Interval | None:
        """With its studentised bootstrap interval over people; None where it cannot be told."""
        value, error = (float(one[0][self.place]) for one in (self.found, self.error))
        if np.isnan(value):
            return None
        values, errors = (np.moveaxis(one, 0, -1)[self.place] for one in (self.drawn, self.drawn_error))
        return studentised(value, error if error > 1e-9 else 0.0, values, errors, people, self.bounds)


def _score(model: str, culture: str, metric: str, figure: Figure, people: int, n: int) -> list[Score]:
    """Nothing where the figure cannot be told."""
    found = figure.interval(people)
    return [Score(model, culture, TASK, metric, found.mean, found.low, found.high, n)] if found else []
