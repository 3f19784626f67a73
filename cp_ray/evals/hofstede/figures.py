"""Dimensions and distances of one model's respondents, each with its standard error.

The respondents are the same people in every culture, so that a person is drawn whole, with the answers in all cultures.
An error is that of the linearised figure (delta method): what each person adds to it, squared and summed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Figures", "added_to_means", "distances", "error_of", "figures", "means_of", "pulls_on_distances"]

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
def means_of(answers: Array, weights: Array) -> Array:
    """Mean [r, cultures, 6] of each resample, over those who answered; NaN without anybody. Arguments as `figures`."""
    there = ~np.isnan(answers)
    n = np.einsum("rp,cpd->rcd", weights, there.astype(np.float64))
    means: Array = np.einsum("rp,cpd->rcd", weights, np.where(there, answers, 0.0)) / n
    return means


@np.errstate(divide="ignore", invalid="ignore")
def added_to_means(answers: Array, means: Array, weights: Array) -> Array:
    """What each person adds to each of these means: [r, cultures, people, 6]; the others as `figures`."""
    there = ~np.isnan(answers)
    n = np.einsum("rp,cpd->rcd", weights, there.astype(np.float64))
    added: Array = np.where(there, (np.where(there, answers, 0.0) - means[:, :, None]) / n[:, :, None], 0.0)
    return added


def distances(means: Array, known: Array) -> Array:
    """Root mean square distance [r, cultures] of means [r, cultures, 6] to published scores [cultures, 6]."""
    return _rms(means + _constants(means, known) - known)


def pulls_on_distances(means: Array, added: Array, known: Array) -> Array:
    """What each person adds to each distance: [r, cultures, people], given what it adds to the means."""
    gaps = means + _constants(means, known) - known
    return _added_to_rms(gaps, _added_to_fitted(means, added, known))


def error_of(added: Array, weights: Array, axis: int) -> Array:
    """Standard error of a figure, given what each person adds to it.

    Args:
        added: linearised, the people along `axis`.
        weights: how often each was drawn, in a shape that broadcasts.
        axis: the people's.
    """
    people = weights.shape[axis]
    error: Array = np.sqrt((weights * added**2).sum(axis=axis) * people / max(1, people - 1))
    return error


def _figures(answers: Array, known: Array, weights: Array) -> Figures:
    means = means_of(answers, weights)
    fitted = means + _constants(means, known)
    fitted_added = _added_to_fitted(means, added_to_means(answers, means, weights), known)
    return Figures(
        fitted,
        error_of(fitted_added, weights[:, None, :, None], 2),
        _rms(fitted - known),
        error_of(_added_to_rms(fitted - known, fitted_added), weights[:, None], 2),
    )


@np.errstate(divide="ignore", invalid="ignore")
def _constants(means: Array, known: Array) -> Array:
    """Of each culture the mean of published less own over the other cultures that have both; NaN without any."""
    gaps = known - means
    both = ~np.isnan(gaps)
    gaps = np.where(both, gaps, 0.0)
    constants: Array = (gaps.sum(axis=1, keepdims=True) - gaps) / _others(both)
    return constants


@np.errstate(divide="ignore", invalid="ignore")
def _added_to_fitted(means: Array, added: Array, known: Array) -> Array:
    both = ~np.isnan(known - means)
    own = np.where(both[:, :, None], np.nan_to_num(added), 0.0)
    others = own.sum(axis=1, keepdims=True) - own
    found: Array = added - others / _others(both)[:, :, None]
    return found


def _others(both: NDArray[np.bool_]) -> Array:
    """How many other cultures have both; NaN for none."""
    k = both.sum(axis=1, keepdims=True) - both
    return np.where(k > 0, k, np.nan)


@np.errstate(divide="ignore", invalid="ignore")
def _rms(gaps: Array) -> Array:
    some = ~np.isnan(gaps)
    found: Array = np.sqrt((np.where(some, gaps, 0.0) ** 2).sum(axis=2) / some.sum(axis=2))
    return found


@np.errstate(divide="ignore", invalid="ignore")
def _added_to_rms(gaps: Array, added: Array) -> Array:
    some = ~np.isnan(gaps)
    pull = np.where(some, gaps, 0.0) / (_rms(gaps) * some.sum(axis=2))[..., None]
    found: Array = np.einsum("rcd,rcpd->rcp", pull, np.nan_to_num(added))
    return found
