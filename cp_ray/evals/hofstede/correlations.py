"""Pearson's r and Spearman's rho of a model's dimensions with the published ones, over the cultures.

No constant changes them. They are told from three cultures on, where both sides vary.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["pearsons", "pulls_on_pearsons", "spearmans"]

Array = NDArray[np.float64]

_LEAST = 3
"""Cultures."""


def pearsons(means: Array, known: Array) -> Array:
    """Pearson's r [r, 6]; NaN where it cannot be told.

    Args:
        means: of each resample r, [r, cultures, 6]; NaN where nobody answered.
        known: published scores [cultures, 6]; NaN where there is none.
    """
    a, b = _centred(means, known)
    return _cosine(a, b)


@np.errstate(divide="ignore", invalid="ignore")
def pulls_on_pearsons(means: Array, added: Array, known: Array) -> Array:
    """What each person adds to each r (linearised): [r, 6, people]; `added` to the means: [r, cultures, people, 6]."""
    a, b = _centred(means, known)
    size, other = (np.sqrt((one**2).sum(axis=1, keepdims=True)) for one in (a, b))
    pull = b / (size * other) - _cosine(a, b)[:, None] * a / size**2
    found: Array = np.einsum("rcd,rcpd->rdp", pull, np.nan_to_num(added))
    return found


def spearmans(means: Array, known: Array) -> Array:
    """Spearman's rho [r, 6]: Pearson's r of the ranks; those that are level share the mean of theirs."""
    there = _there(means, known)
    ranks = [np.where(there, _ranks(np.where(there, one, np.nan)), np.nan) for one in (means, known[None])]
    return _cosine(*(_without_mean(one, there) for one in ranks))


def _there(means: Array, known: Array) -> NDArray[np.bool_]:
    return ~np.isnan(means) & ~np.isnan(known)


def _centred(means: Array, known: Array) -> tuple[Array, Array]:
    there = _there(means, known)
    return _without_mean(means, there), _without_mean(np.broadcast_to(known, means.shape), there)


@np.errstate(divide="ignore", invalid="ignore")
def _without_mean(values: Array, there: NDArray[np.bool_]) -> Array:
    """Less their mean over the cultures that have both; 0 for the others, NaN with too few."""
    n = there.sum(axis=1, keepdims=True)
    mean = np.where(there, values, 0.0).sum(axis=1, keepdims=True) / np.where(n >= _LEAST, n, np.nan)
    found: Array = np.where(there, values, mean) - mean
    return found


def _cosine(a: Array, b: Array) -> Array:
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    found: Array = np.divide((a * b).sum(axis=1), size, out=np.full(size.shape, np.nan), where=size > 1e-9)
    return found


def _ranks(values: Array) -> Array:
    """Ranks over the cultures of [r, cultures, 6]; a NaN is level with none."""
    less = (values[:, None] < values[:, :, None]).sum(axis=2)
    level = (values[:, None] == values[:, :, None]).sum(axis=2)
    ranks: Array = less + (level + 1) / 2
    return ranks
