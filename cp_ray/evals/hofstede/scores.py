"""How far a model's dimensions are from the published ones, and whether it has the cultures in their order.

An answer that names no option is missing, never a number: the originals put 10 for it, which moves a dimension by
hundreds. Distances are root mean squares over the dimensions that a culture has, so that one with two known dimensions
is not nearer for it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cp_ray.errors import ConfigError
from cp_ray.evals.hofstede.formulas import DIMENSIONS, ITEMS, Published, indices
from cp_ray.evals.hofstede.items import TASK
from cp_ray.records import Prediction, Score

__all__ = ["ALL", "CONSTANT", "OWN", "RANDOM", "HofstedeScoring", "Truth", "hofstede_scores", "published_of"]

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
    answers = _answers(p for p in predictions if p.task == TASK)
    people = max((len(one) for own in answers.values() for one in own.values()), default=30)
    cultures = [truth.culture for truth in config.truth]
    own = {c: answers[c][c] for c in cultures if c in answers and c in answers[c]}
    if own:
        answers[OWN] = own
    rng = np.random.default_rng(config.seed)
    answers[CONSTANT] = {c: np.full((people, len(ITEMS)), 3.0) for c in cultures}
    answers[RANDOM] = {c: rng.integers(1, 6, (people, len(ITEMS))).astype(np.float64) for c in cultures}
    return [score for model, told in answers.items() for score in _model_scores(model, told, config)]


def _answers(predictions: Iterable[Prediction]) -> dict[str, dict[str, Array]]:
    """Of each model and culture: answers [respondents, 24] from 1 to 5, NaN where there is none."""
    found: dict[tuple[str, str], dict[tuple[int, int], float]] = defaultdict(dict)
    for p in predictions:
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
    return answers


def _model_scores(model: str, answers: Mapping[str, Array], config: HofstedeScoring) -> list[Score]:
    truth = {t.culture: np.array([np.nan if s is None else s for s in t.scores]) for t in config.truth}
    cultures = [c for c in truth if c in answers]
    if not cultures:
        return []
    known = np.array([truth[c] for c in cultures])  # [cultures, 6]
    told = [indices(answers[c]) for c in cultures]  # of each: [respondents, 6]
    n = [(~np.isnan(one)).sum(axis=0) for one in told]
    value = np.array([_mean(one) for one in told])[None]
    rng = np.random.default_rng(config.seed)
    draws = [one[rng.integers(0, len(one), (config.resamples, len(one)))] for one in told]
    drawn = np.stack([_mean(one, axis=1) for one in draws], axis=1)  # [resamples, cultures, 6]
    fitted, fitted_draws = value + _constants(value, known), drawn + _constants(drawn, known)
    scores = []
    for c, culture in enumerate(cultures):
        for d, name in enumerate(DIMENSIONS):
            scores += _score(model, culture, name, fitted[:, c, d], fitted_draws[:, c, d], int(n[c][d]))
        apart, apart_draws = (_distance(x[:, c], known[c]) for x in (fitted, fitted_draws))
        scores += _score(
            model, culture, "distance", apart, apart_draws, int((~np.isnan(fitted[0, c] - known[c])).sum())
        )
    return scores + _correlations(model, value, drawn, known)


def _constants(values: Array, known: Array) -> Array:
    """Of each culture and dimension the mean of published less own over the other cultures: [r, cultures, 6].

    NaN where no other culture has both.
    """
    gaps = known[None] - values
    there = ~np.isnan(gaps)
    gaps = np.where(there, gaps, 0.0)
    others, n = gaps.sum(axis=1, keepdims=True) - gaps, there.sum(axis=1, keepdims=True) - there
    constants: Array = np.divide(others, n, out=np.full(gaps.shape, np.nan), where=n > 0)
    return constants


def _distance(fitted: Array, known: Array) -> Array:
    """Root mean square [r] over the dimensions that both have; NaN where there is none."""
    gaps = fitted - known[None]
    there = ~np.isnan(gaps)
    total, n = np.where(there, gaps, 0.0) ** 2, there.sum(axis=1)
    squared: Array = np.divide(total.sum(axis=1), n, out=np.full(len(gaps), np.nan), where=n > 0)
    return np.sqrt(squared)


def _correlations(model: str, value: Array, drawn: Array, known: Array) -> list[Score]:
    """Pearson's r and Spearman's rho over the cultures, which no constant changes; from three cultures on."""
    scores = []
    for d, name in enumerate(DIMENSIONS):
        there = ~np.isnan(known[:, d]) & ~np.isnan(value[0, :, d])
        if there.sum() < 3:
            continue
        x, draws, y = value[:, there, d], drawn[:, there, d], known[there, d]
        scores += _score(model, ALL, f"pearson_{name}", _pearson(x, y), _pearson(draws, y), len(y))
        ranks = _ranks(y[None])[0]
        rank = (_pearson(_ranks(x), ranks), _pearson(_ranks(draws), ranks))
        scores += _score(model, ALL, f"spearman_{name}", *rank, len(y))
    return scores


def _pearson(x: Array, y: Array) -> Array:
    """Pearson's coefficient [r] of each row of x [r, n] with y [n]; NaN where one of them does not vary."""
    a, b = x - x.mean(axis=1, keepdims=True), y - y.mean()
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum())
    found: Array = np.divide(a @ b, size, out=np.full(len(x), np.nan), where=size > 1e-9)
    return found


def _ranks(x: Array) -> Array:
    """Ranks within each row; those that are level share the mean of theirs."""
    less = (x[:, None, :] < x[:, :, None]).sum(axis=2)
    level = (x[:, None, :] == x[:, :, None]).sum(axis=2)
    ranks: Array = less + (level + 1) / 2
    return ranks


def _score(model: str, culture: str, metric: str, value: Array, draws: Array, n: int) -> list[Score]:
    """Nothing where the figure cannot be told."""
    if np.isnan(value[0]):
        return []
    some = draws[~np.isnan(draws)]
    low, high = np.quantile(some, [0.025, 0.975]) if len(some) else (-np.inf, np.inf)
    return [Score(model, culture, TASK, metric, float(value[0]), float(low), float(high), n)]


def _mean(values: Array, axis: int = 0) -> Array:
    """Mean without the missing ones; NaN where all are."""
    there = ~np.isnan(values)
    n = there.sum(axis=axis)
    mean: Array = np.divide(np.where(there, values, 0.0).sum(axis=axis), n, out=np.full(n.shape, np.nan), where=n > 0)
    return mean
