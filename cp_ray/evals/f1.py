"""Macro-F1 over a task's own labels, with its interval.

An answer that names no label is a miss of the true one and no false alarm of another: it has a column of its own in the
confusion matrix. The matrix is all that the figure hangs on, so a bootstrap over rows is one of its cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cp_ray.evals.intervals import Interval, studentised

__all__ = ["Drawn", "average_interval", "confusion", "drawn", "interval_of", "macro_f1", "macro_f1s"]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A macro-F1 and its standard error, as they are and in each resample of the rows."""

    value: float
    error: float
    values: NDArray[np.float64]
    """[resamples]"""
    errors: NDArray[np.float64]
    """[resamples]"""
    n: int
    """Rows."""


def confusion(gold: Sequence[str], chosen: Sequence[str | None], labels: Sequence[str]) -> NDArray[np.int64]:
    """Counts [labels, labels + 1]: true label by chosen one, the last column for answers that name none.

    Raises:
        ValueError: the lengths differ, or a true label is none of the labels.
    """
    if len(gold) != len(chosen):
        raise ValueError(f"gold and chosen must have the same length, got {len(gold)} and {len(chosen)}")
    place = {label: k for k, label in enumerate(labels)}
    unknown = next((label for label in gold if label not in place), None)
    if unknown is not None:
        raise ValueError(f"gold: must be of {', '.join(labels)}, got {unknown!r}")
    counts = np.zeros((len(labels), len(labels) + 1), dtype=np.int64)
    for true, said in zip(gold, chosen, strict=True):
        counts[place[true], place.get(said, len(labels)) if said is not None else len(labels)] += 1
    return counts


def macro_f1(counts: NDArray[np.int64]) -> float:
    """Mean over all labels of 2 tp / (2 tp + fp + fn), which is 0 for a label that is neither true nor chosen."""
    return float(macro_f1s(counts[None])[0])


def macro_f1s(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Macro-F1 of each matrix of [r, labels, labels + 1]."""
    right, total = _right_and_total(counts)
    found: NDArray[np.float64] = np.divide(2.0 * right, total, out=np.zeros(right.shape), where=total > 0).mean(axis=1)
    return found


def drawn(counts: NDArray[np.int64], *, resamples: int, seed: int) -> Drawn:
    """Macro-F1 of a confusion matrix, and of matrices of as many rows drawn with replacement.

    Raises:
        ValueError: there is no row.
    """
    n = int(counts.sum())
    if not n:
        raise ValueError("counts: there must be a row")
    flat = np.random.default_rng(seed).multinomial(n, counts.ravel() / n, size=resamples)
    draws = flat.reshape(resamples, *counts.shape)
    return Drawn(macro_f1(counts), float(_errors(counts[None])[0]), macro_f1s(draws), _errors(draws), n)


def interval_of(one: Drawn) -> Interval:
    """Macro-F1 with its studentised bootstrap interval over rows."""
    return studentised(one.value, one.error, one.values, one.errors, one.n, (0.0, 1.0))


def average_interval(sets: Sequence[Drawn]) -> Interval:
    """The mean over sets, whose rows were drawn apart from each other, with its studentised bootstrap interval.

    The interval is over the rows of these sets, not over other sets there could be.
    """
    k = len(sets)
    values: NDArray[np.float64] = np.mean([one.values for one in sets], axis=0)
    errors: NDArray[np.float64] = np.sqrt(np.sum([one.errors**2 for one in sets], axis=0)) / k
    value, error = float(np.mean([one.value for one in sets])), float(np.sqrt(sum(one.error**2 for one in sets))) / k
    return studentised(value, error, values, errors, sum(one.n for one in sets), (0.0, 1.0))


def _errors(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard error of each matrix's macro-F1, by the delta method."""
    right, total = _right_and_total(counts)
    labels, n = counts.shape[1], counts.sum(axis=(1, 2))
    share = np.divide(1.0, total, out=np.zeros(total.shape), where=total > 0)
    lost = 2.0 * right * share**2  # what one more true or chosen row of a label takes from its F1
    pull = -np.repeat(lost[:, :, None], labels + 1, axis=2)
    pull[:, :, :labels] -= lost[:, None, :]
    pull[:, range(labels), range(labels)] += 2.0 * share
    variance = (counts * (pull / labels) ** 2).sum(axis=(1, 2))
    # `pull` is per row, its mean over the rows is 0, so the variance of the figure is the sum of squares.
    found: NDArray[np.float64] = np.sqrt(variance * n / np.maximum(n - 1, 1))
    return found


def _right_and_total(counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each label: rows that are right; true rows and chosen rows together."""
    labels = counts.shape[1]
    right = counts[:, range(labels), range(labels)].astype(np.float64)
    total = counts.sum(axis=2) + counts[:, :, :labels].sum(axis=1)
    return right, total.astype(np.float64)
