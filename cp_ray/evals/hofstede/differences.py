"""Two runs' dimensions, held against each other: the same models, the same simulated people, the same cultures.

Constants are fitted on the other cultures, so that a distance hangs on which cultures there are: both runs' are worked
out anew on the cultures that both have, and on the answers that both have. A person is drawn whole, with the answers in
every culture and in both runs.

A distance is no mean over people, so the test is over what each of them adds to the difference (linearised, as in
`figures`): of a mean that is the person's own difference, and the test is that of `cp_ray.evals.compare`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cp_ray.evals.compare import paired
from cp_ray.evals.differences import OVERALL, Difference, corrected
from cp_ray.evals.hofstede.correlations import pearsons, pulls_on_pearsons
from cp_ray.evals.hofstede.figures import added_to_means, distances, error_of, means_of, pulls_on_distances
from cp_ray.evals.hofstede.formulas import DIMENSIONS, indices
from cp_ray.evals.hofstede.scores import ALL, Truth, same_people
from cp_ray.evals.intervals import studentised

__all__ = ["correlation_differences", "distance_differences"]

Array = NDArray[np.float64]
Answers = Mapping[str, Mapping[str, Array]]
"""By model and culture: [people, 24] from 1 to 5, NaN where there is none."""

_AT_ONCE = 200
"""Resamples that are computed together."""


def distance_differences(
    first: Answers, second: Answers, truth: Sequence[Truth], *, resamples: int = 2000, seed: int = 0
) -> list[Difference]:
    """Distances to the published scores, in points a dimension, of the models that both have; lower is better.

    By culture, and as the mean over the cultures; of two cultures the mean alone, since both have the same distance.
    Intervals are studentised bootstraps over the people.

    Args:
        first: a run's.
        second: another's, of the same people.
        truth: the published scores.
        resamples: of the bootstrap.
        seed: of it.
    """
    found = []
    for pair in _pairs(first, second, truth):
        names = [("distance in points", culture) for culture in (*pair.cultures, OVERALL)]
        rows = _compared(pair, names, _distances, _added_to_distances, resamples, seed)
        found += rows if len(pair.cultures) > 2 else [row for row in rows if row.culture == OVERALL]
    return corrected(found)


def correlation_differences(
    first: Answers, second: Answers, truth: Sequence[Truth], *, resamples: int = 2000, seed: int = 0
) -> list[Difference]:
    """Pearson's r with the published scores over the cultures that both have; higher is better. Arguments as above.

    An interval says what other people would have brought, the cultures being these. Spearman's rho jumps where two
    cultures change places, so that nothing can be said of what a person adds to it: it is not compared.
    """
    names = [(f"pearson_{name}", ALL) for name in DIMENSIONS]
    pairs = _pairs(first, second, truth)
    return corrected(
        [row for pair in pairs for row in _compared(pair, names, pearsons, pulls_on_pearsons, resamples, seed)]
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    """A model in both runs."""

    model: str
    cultures: tuple[str, ...]
    known: Array
    """[cultures, 6]"""
    first: Array
    """Dimensions [cultures, people, 6] without constants; NaN where an answer is missing in either run."""
    second: Array


@dataclass(frozen=True, slots=True)
class _Gaps:
    """Figures of both runs in each resample."""

    first: Array
    """[r, k]"""
    second: Array
    added: Array
    """What each person adds to second less first: [r, k, people]."""


_Figure = Callable[[Array, Array], Array]
"""Of means [r, cultures, 6] and published scores: so many figures, [r, k]."""
_Added = Callable[[Array, Array, Array], Array]
"""Of means, what each person adds to them, and published scores: what it adds to the figures, [r, k, people]."""


def _pairs(first: Answers, second: Answers, truth: Sequence[Truth]) -> Iterator[_Pair]:
    """The models that have cultures in common with each other and with the published scores."""
    published = {t.culture: np.array([np.nan if s is None else s for s in t.scores]) for t in truth}
    for model in first:
        cultures = [c for c in published if c in first[model] and c in second.get(model, {})]
        if not cultures:
            continue
        a, b = np.split(same_people([indices(run[model][c]) for run in (first, second) for c in cultures]), 2)
        lost = np.isnan(a) | np.isnan(b)
        known = np.array([published[c] for c in cultures])
        some = (~np.isnan(known) & ~lost.all(axis=1)).any(axis=1)
        names = tuple(c for c, there in zip(cultures, some, strict=True) if there)
        if names:
            yield _Pair(model, names, known[some], *(np.where(lost, np.nan, one)[some] for one in (a, b)))


def _compared(
    pair: _Pair, names: Sequence[tuple[str, str]], figure: _Figure, added: _Added, resamples: int, seed: int
) -> list[Difference]:
    """Those of the figures, each a measure of a culture, that can be told."""
    people = pair.first.shape[1]
    once, reach = np.ones((1, people)), (-np.inf, np.inf)
    draws = np.random.default_rng(seed).multinomial(people, np.full(people, 1 / people), resamples).astype(np.float64)
    found = _gaps(pair, figure, added, once)
    error = error_of(found.added, once[:, None], 2)[0]
    parts = [
        (drawn.second - drawn.first, error_of(drawn.added, some[:, None], 2))
        for some in (draws[k : k + _AT_ONCE] for k in range(0, resamples, _AT_ONCE))
        for drawn in [_gaps(pair, figure, added, some)]
    ]
    values, errors = (np.concatenate(column) for column in zip(*parts, strict=True))
    rows = []
    for k, (what, culture) in enumerate(names):
        x, y = float(found.first[0, k]), float(found.second[0, k])
        if not np.isnan(y - x):
            own_error = float(error[k]) if error[k] > 1e-9 else 0.0
            gap = studentised(y - x, own_error, values[:, k], errors[:, k], people, reach)
            each = y - x + people * found.added[0, k]
            rows.append(Difference(what, pair.model, culture, x, y, gap, paired(list(each), [0.0] * people).p, people))
    return rows


def _gaps(pair: _Pair, figure: _Figure, added: _Added, weights: Array) -> _Gaps:
    figures, adds = [], []
    for answers in (pair.first, pair.second):
        means = means_of(answers, weights)
        figures.append(figure(means, pair.known))
        # A distance of 0 has no slope: nobody adds to it.
        adds.append(np.nan_to_num(added(means, added_to_means(answers, means, weights), pair.known)))
    return _Gaps(figures[0], figures[1], adds[1] - adds[0])


def _distances(means: Array, known: Array) -> Array:
    """Of each culture, and their mean."""
    found = distances(means, known)
    return np.concatenate([found, found.mean(axis=1, keepdims=True)], axis=1)


def _added_to_distances(means: Array, added: Array, known: Array) -> Array:
    found = pulls_on_distances(means, added, known)
    return np.concatenate([found, found.mean(axis=1, keepdims=True)], axis=1)
