"""How sure a figure is: 95 % intervals that hold for few items.

Test sets here have ten to fifty questions. A percentile bootstrap over ten values covers the truth about nine times in
ten, so means and ratios of means get the studentised bootstrap (Efron and Tibshirani 1993, section 12.5): each
resample's deviation is measured in its own standard error, and the quantiles of that make the interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Interval", "interval", "ratio_interval", "share_interval", "studentised"]

_TAILS = (0.975, 0.025)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the 95 % interval around it."""

    mean: float
    low: float
    high: float


def interval(
    values: Sequence[float], *, resamples: int, seed: int, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    """Mean of the items' values with its studentised bootstrap interval over items.

    Args:
        values: one an item, at least one.
        resamples: drawn.
        seed: of the draws.
        bounds: between which the true mean can lie. Of one item nothing else is known.
    """
    return ratio_interval(values, [1.0] * len(values), resamples=resamples, seed=seed, bounds=bounds)


def ratio_interval(
    over: Sequence[float],
    under: Sequence[float],
    *,
    resamples: int,
    seed: int,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """Ratio of two sums over items, which are drawn whole: sum(over) / sum(under).

    With clusters for items (dialogues, questions asked in several cultures) `over` are the clusters' sums and `under`
    their sizes. The standard error is that of the linearised ratio.

    Raises:
        ValueError: the lengths differ, there is no item, or `under` sums to 0.
    """
    a, b = np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)
    if len(a) != len(b) or not len(a):
        raise ValueError(f"over and under must have the same items, at least one, got {len(a)} and {len(b)}")
    if b.sum() == 0:
        raise ValueError("under: must not sum to 0")
    draws = np.random.default_rng(seed).integers(0, len(a), size=(resamples, len(a)))
    value, error = _ratio(a[None], b[None])
    with np.errstate(divide="ignore", invalid="ignore"):
        values, errors = _ratio(a[draws], b[draws])
    return studentised(float(value[0]), float(error[0]), values, errors, len(a), bounds)


def share_interval(k: int, n: int) -> Interval:
    """A share of k in n with its 95 % interval (Wilson 1927), which holds near 0 and 1 too."""
    z2 = 1.959963984540054**2
    middle = (k + z2 / 2) / (n + z2)
    reach = (z2 * (k * (n - k) / n + z2 / 4)) ** 0.5 / (n + z2)
    return Interval(k / n, max(0.0, middle - reach), min(1.0, middle + reach))


def studentised(
    value: float,
    error: float,
    values: NDArray[np.float64],
    errors: NDArray[np.float64],
    n: int,
    bounds: tuple[float, float],
) -> Interval:
    """The interval from a figure, its standard error, and both in every resample.

    A resample without spread that deviates says that anything could be: it counts as an infinite deviation. So few
    items give an interval up to the bounds, and not a narrow one. Where no item deviates at all there is no spread to
    go by, and no interval around the figure: shares take `share_interval`.
    """
    if n == 1:
        return Interval(value, *bounds)
    if error == 0:
        return Interval(value, value, value)
    with np.errstate(divide="ignore", invalid="ignore"):
        deviations = (values - value) / errors
    deviations = deviations[~np.isnan(deviations)]
    if not len(deviations):
        return Interval(value, *bounds)
    high, low = np.quantile(deviations, _TAILS, method="inverted_cdf")
    least, most = value - high * error, value - low * error
    return Interval(value, float(np.clip(least, *bounds)), float(np.clip(most, *bounds)))


def _ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ratio and its standard error of each row [r, n] of both."""
    n = a.shape[1]
    ratio = a.sum(axis=1) / b.sum(axis=1)
    rest = (a - ratio[:, None] * b) / b.mean(axis=1)[:, None]
    variance = (rest**2).sum(axis=1) / (n * max(1, n - 1))
    # What is left by rounding alone is no spread.
    size = np.abs(a).max() if a.size else 0.0
    error = np.sqrt(variance)
    return ratio, np.where(error <= 1e-12 * max(size, 1e-300), 0.0, error)
