"""Is one model better than another on the same items? A paired test, which two runs of one model seldom pass.

Under the hypothesis that both are equal, it is chance which of them gave which of an item's two answers. So the answers
are exchanged item by item, and the difference is held against those that come about that way (a permutation test).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cp_ray.evals.f1 import macro_f1s
from cp_ray.evals.intervals import Interval, interval

__all__ = ["Comparison", "difference", "holm", "paired", "paired_f1"]

_EXACT = 12
"""So many items are exchanged in every way there is."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two models' figures on the same items come to."""

    difference: float
    """First less second."""
    p: float
    """Two-sided: how often equal models differ as much."""

    def verdict(self, level: float = 0.05) -> str:
        """`first` or `second`: which figure is the larger one beyond chance; `neither` otherwise."""
        if self.p > level:
            return "neither"
        return "first" if self.difference > 0 else "second"


def paired(first: Sequence[float], second: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> Comparison:
    """Compare means over the same items.

    Raises:
        ValueError: the lengths differ, there is no item, or a figure is not finite.
    """
    gaps = _gaps(first, second)
    n = len(gaps)
    if n <= _EXACT:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    else:
        signs = 1 - 2 * np.random.default_rng(seed).integers(0, 2, size=(resamples, n))
    # Rounding must not tell a difference from itself.
    as_large = np.abs(signs @ gaps) >= abs(gaps.sum()) - 1e-12
    return Comparison(float(gaps.mean()), _share(as_large, exact=n <= _EXACT))


def difference(
    first: Sequence[float],
    second: Sequence[float],
    *,
    resamples: int,
    seed: int,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> Interval:
    """First less second with its 95 % interval over items; `bounds`: between which the true difference can lie."""
    return interval(list(_gaps(first, second)), resamples=resamples, seed=seed, bounds=bounds)


def paired_f1(
    gold: Sequence[str],
    first: Sequence[str | None],
    second: Sequence[str | None],
    labels: Sequence[str],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare macro-F1 on the same rows.

    Raises:
        ValueError: the lengths differ, there is no row, or a true label is none of the labels.
    """
    place: dict[str | None, int] = {label: k for k, label in enumerate(labels)}
    none = len(labels)
    rows = np.array(
        [(place[g], place.get(a, none), place.get(b, none)) for g, a, b in zip(gold, first, second, strict=True)]
    )
    if not len(rows):
        raise ValueError("gold: there must be a row")
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    # Of the rows of a kind it matters only how many are exchanged.
    exchanged = np.random.default_rng(seed).binomial(counts, 0.5, size=(resamples, len(counts)))
    exchanged = np.vstack([np.zeros((1, len(counts)), dtype=exchanged.dtype), exchanged])
    found = _f1_of(kinds, counts - exchanged, exchanged, none) - _f1_of(kinds, exchanged, counts - exchanged, none)
    return Comparison(float(found[0]), _share(np.abs(found[1:]) >= abs(found[0]) - 1e-12, exact=False))


def holm(ps: Sequence[float]) -> list[float]:
    """The p values of several comparisons, corrected for their number (Holm 1979)."""
    order = sorted(range(len(ps)), key=lambda k: ps[k])
    corrected, least = [0.0] * len(ps), 0.0
    for rank, k in enumerate(order):
        least = max(least, min(1.0, ps[k] * (len(ps) - rank)))
        corrected[k] = least
    return corrected


def _gaps(first: Sequence[float], second: Sequence[float]) -> NDArray[np.float64]:
    if len(first) != len(second) or not len(first):
        raise ValueError(f"both must have the same items, at least one, got {len(first)} and {len(second)}")
    gaps: NDArray[np.float64] = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if not np.isfinite(gaps).all():
        raise ValueError("both must be finite, or chance could not be told from a difference")
    return gaps


def _share(as_large: NDArray[np.bool_], *, exact: bool) -> float:
    """Of drawn exchanges the one that was observed counts too, so that p is never 0."""
    n = int(as_large.sum())
    return n / len(as_large) if exact else (n + 1) / (len(as_large) + 1)


def _f1_of(
    kinds: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64], labels: int
) -> NDArray[np.float64]:
    """Macro-F1 [r] of a model that has so many of the first answers of each kind and so many of the second."""
    counts = np.zeros((len(first), labels, labels + 1), dtype=np.int64)
    for k, (true, one, other) in enumerate(kinds):
        counts[:, true, one] += first[:, k]
        counts[:, true, other] += second[:, k]
    return macro_f1s(counts)
