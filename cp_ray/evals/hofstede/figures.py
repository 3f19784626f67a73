"""Dimensions and distances of one model's respondents, each with its standard error.

The respondents are the same people in every culture, so that a person is drawn whole, with the answers in all cultures.
An error is that of the linearised figure (delta method): what each person adds to it, squared and summed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Figures", "figures"]

Array = NDArray[np.float64]

_AT_ONCE = 200
"""Resamples that are computed together."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of each resample r; NaN where a figure cannot be told."""

    fitted: Array
    """Dimensions [r, cultures, 6] with their constants, each fitted on the other cultures."""
    fitted_error: Array
    distance: Array
    """Root mean square [r, cultures] over the dimensions that both have."""
    distance_error: Array


def figures(answers: Array, known: Array, weights: Array) -> Figures:
    """Both of resamples.

    Args:
        answers: dimensions [cultures, people, 6] without constants; NaN where an answer is missing.
        known: published scores [cultures, 6]; NaN where there is none.
        weights: how often each person was drawn, [r, people].
    """
    parts = [_figures(answers, known, weights[k : k + _AT_ONCE]) for k in range(0, len(weights), _AT_ONCE)]
    names = Figures.__slots__
    return Figures(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@np.errstate(divide="ignore", invalid="ignore")
def _figures(answers: Array, known: Array, weights: Array) -> Figures:
    there = ~np.isnan(answers)
    given = np.where(there, answers, 0.0)
    n = np.einsum("rp,cpd->rcd", weights, there.astype(np.float64))
    means = np.einsum("rp,cpd->rcd", weights, given) / n  # NaN without anybody
    # What each person adds to each mean: [r, c, p, d].
    added = np.where(there, (given - means[:, :, None]) / n[:, :, None], 0.0)
    fitted, fitted_added = _fitted(means, added, known)
    gaps = fitted - known
    some = ~np.isnan(gaps)
    dimensions = some.sum(axis=2)
    distance = np.sqrt(np.where(some, gaps, 0.0) ** 2 @ np.ones(gaps.shape[2]) / dimensions)
    pull = np.where(some, gaps, 0.0) / (distance * dimensions)[..., None]
    distance_added = np.einsum("rcd,rcpd->rcp", pull, np.nan_to_num(fitted_added))
    return Figures(
        fitted,
        _error(fitted_added, weights[:, None, :, None], 2),
        distance,
        _error(distance_added, weights[:, None], 2),
    )


def _fitted(means: Array, added: Array, known: Array) -> tuple[Array, Array]:
    """Dimensions with the mean of published less own over the other cultures that have both; what each person adds."""
    gaps = known - means
    both = ~np.isnan(gaps)
    k = both.sum(axis=1, keepdims=True) - both  # other cultures
    gaps = np.where(both, gaps, 0.0)
    constants = (gaps.sum(axis=1, keepdims=True) - gaps) / np.where(k > 0, k, np.nan)
    own = np.where(both[:, :, None], np.nan_to_num(added), 0.0)
    others = own.sum(axis=1, keepdims=True) - own
    return means + constants, added - others / k[:, :, None]


def _error(added: Array, weights: Array, axis: int) -> Array:
    """Standard error from what each person, drawn so often, adds to a figure."""
    people = weights.shape[axis]
    error: Array = np.sqrt((weights * added**2).sum(axis=axis) * people / max(1, people - 1))
    return error
