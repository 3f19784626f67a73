"""Diversity gain: how far new rows lie from the ones there were."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["diversity_gain", "nearest_distances"]


def nearest_distances(new: "NDArray[np.float32]", original: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """The smallest Euclidean distance of each new row to any original row: [m].

    Args:
        new: vectors [m, d].
        original: vectors [n, d], n at least 1.

    Raises:
        ValueError: there is no original row, or the vectors are not of the same size.
    """
    import faiss
    import numpy as np

    if new.ndim != 2 or original.ndim != 2 or new.shape[1] != original.shape[1]:
        raise ValueError(f"vectors must be [m, d] and [n, d], got {new.shape} and {original.shape}")
    if not len(original):
        raise ValueError("original: must have at least one row")
    if not len(new):
        return np.zeros(0, np.float32)
    there = np.ascontiguousarray(original, np.float32)
    queries = np.ascontiguousarray(new, np.float32)
    nearest = faiss.knn(queries, there, 1)[1][:, 0]
    # faiss takes |x|² - 2xy + |y|², which loses what is small; the nearest row is known now, so subtract.
    found: NDArray[np.float32] = np.linalg.norm(queries - there[nearest], axis=1)
    return found


def diversity_gain(new: "NDArray[np.float32]", original: "NDArray[np.float32]") -> float:
    """The mean over the new rows of the smallest Euclidean distance to any original row.

    Between vectors of unit length it is from 0 (nothing new) to 2. Each text is embedded once, not once a pair.

    Raises:
        ValueError: there are no new or no original rows, or the vectors are not of the same size.
    """
    if not len(new):
        raise ValueError("new: must have at least one row")
    return float(nearest_distances(new, original).mean(dtype="float64"))
