"""Distances between two answer distributions over the same options."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["emd", "emds", "jsd", "jsds"]


def emd(p: Sequence[float], q: Sequence[float]) -> float:
    """Earth mover's distance on an ordinal scale, from 0 (equal) to 1 (all answers at opposite ends).

    The options stand one step apart, and the distance is divided by the length of the scale.
    """
    return float(emds(p, q))


def jsd(p: Sequence[float], q: Sequence[float]) -> float:
    """Jensen-Shannon distance (the square root of the divergence, logarithms to base 2), from 0 to 1."""
    return float(jsds(p, q))


def emds(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """Earth mover's distances of arrays [..., options], as in `emd`."""
    gaps = np.cumsum(np.asarray(p, dtype=np.float64) - np.asarray(q, dtype=np.float64), axis=-1)[..., :-1]
    found: NDArray[np.float64] = np.abs(gaps).sum(axis=-1) / gaps.shape[-1]
    return found


def jsds(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """Jensen-Shannon distances of arrays [..., options], as in `jsd`."""
    first, second = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    middle = (first + second) / 2
    divergence = (_kl(first, middle) + _kl(second, middle)) / 2
    return np.sqrt(np.maximum(divergence, 0.0))


def _kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    some = p > 0
    ratio = np.divide(p, q, out=np.ones_like(p), where=some)
    found: NDArray[np.float64] = (p * np.log2(ratio)).sum(axis=-1)
    return found
