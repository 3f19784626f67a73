"""Cells of vectors, on two levels: finding a row's nearest ones costs the root of their number."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["nearest_cells"]

_CELL = 256
"""Rows at home in a cell, about."""
_PROBES = 8
_GROUPS = 8
"""Groups of cells that a row's nearest are looked for in."""
_DIMENSIONS = 64
"""Of the principal components that cells are told apart by."""
_SMALLEST = 16_384
"""Rows from which cells pay."""
_BLOCK = 65_536


def nearest_cells(vectors: "NDArray[np.float32]", order: "NDArray[np.int64]") -> "NDArray[np.int32]":
    """The cells nearest to each row in `order`, the nearest, which is its home, first: [n, cells], -1 for none.

    One cell for all where there are few rows. The same rows in the same order give the same cells.

    Raises:
        ValueError: a vector is not of unit length.
    """
    import faiss
    import numpy as np

    short = _projected(vectors, order)
    if len(order) < _SMALLEST:
        return np.zeros((len(order), 1), np.int32)
    top, centres = _centres(short[: len(order) // 4], len(order) // _CELL)
    coarse = faiss.IndexFlatL2(short.shape[1])
    coarse.add(top)
    index = faiss.IndexIVFFlat(coarse, short.shape[1], len(top))
    index.train(top)
    index.add(centres)
    index.nprobe = _GROUPS
    found = np.empty((len(order), _PROBES), np.int32)
    for start in range(0, len(order), _BLOCK):
        found[start : start + _BLOCK] = index.search(short[start : start + _BLOCK], _PROBES)[1]
    return found


def _projected(vectors: "NDArray[np.float32]", order: "NDArray[np.int64]") -> "NDArray[np.float32]":
    """The rows in `order`, in their principal components: [n, at most 64]."""
    import numpy as np

    some = _unit(vectors[order[:_BLOCK]])
    axes = np.linalg.eigh(some.T @ some)[1][:, -_DIMENSIONS:] if len(some) else np.zeros((vectors.shape[1], 1))
    short = np.empty((len(order), axes.shape[1]), np.float32)
    for start in range(0, len(order), _BLOCK):
        some = _unit(vectors[order[start : start + _BLOCK]])
        short[start : start + _BLOCK] = some @ axes.astype(np.float32)
    return short


def _unit(rows: "NDArray[np.float32]") -> "NDArray[np.float32]":
    import numpy as np

    lengths = np.linalg.norm(rows, axis=1)
    wrong = lengths[~(abs(lengths - 1) < 1e-3)]
    if len(wrong):
        raise ValueError(f"vectors: must be of unit length, got one of {wrong[0]:.4g}")
    return rows


def _centres(sample: "NDArray[np.float32]", cells: int) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
    """Centres of groups of cells, and of the cells: k-means on the sample, then within each group."""
    import faiss
    import numpy as np

    def kmeans(rows: "NDArray[np.float32]", k: int) -> "tuple[NDArray[np.float32], NDArray[np.int64]]":
        found = faiss.Kmeans(rows.shape[1], k, niter=8, seed=1, min_points_per_centroid=1, max_points_per_centroid=512)
        found.train(rows)
        assert found.centroids is not None
        return found.centroids, found.index.search(rows, 1)[1][:, 0]

    top, group = kmeans(sample, max(1, round(cells**0.5)))
    members = [sample[group == k] for k in range(len(top))]
    parts = [kmeans(own, max(1, round(cells * len(own) / len(sample))))[0] for own in members if len(own)]
    return top, np.concatenate(parts)
