"""Distances between two answer distributions, and the interval of their mean over questions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Interval", "emd", "interval", "jsd"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the 95 % interval around it."""

    mean: float
    low: float
    high: float


def emd(p: Sequence[float], q: Sequence[float]) -> float:
    """Earth mover's distance on an ordinal scale, from 0 (equal) to 1 (all answers at opposite ends).

    The options stand one step apart, and the distance is divided by the length of the scale.
    """
    gaps = np.cumsum(np.asarray(p, dtype=np.float64) - np.asarray(q, dtype=np.float64))[:-1]
    return float(np.abs(gaps).sum() / len(gaps))


def jsd(p: Sequence[float], q: Sequence[float]) -> float:
    """Jensen-Shannon distance (the square root of the divergence, logarithms to base 2), from 0 to 1."""
    first, second = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    middle = (first + second) / 2
    divergence = (_kl(first, middle) + _kl(second, middle)) / 2
    return float(np.sqrt(max(divergence, 0.0)))


def _kl(
    p: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", q: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]"
) -> float:
    some = p > 0
    return float((p[some] * np.log2(p[some] / q[some])).sum())


def interval(values: Sequence[float], *, resamples: int, seed: int) -> Interval:
    """Mean of the questions' values with its percentile bootstrap interval over questions."""
    x = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(x), size=(resamples, len(x)))
    low, high = np.quantile(x[draws].mean(axis=1), [0.025, 0.975])
    return Interval(float(x.mean()), float(low), float(high))
