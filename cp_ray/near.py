"""Near-duplicates among a million vectors, in time that grows with their number and hardly more.

A row is removed if it is at least `tau` like a kept row that comes before it. Chains are not followed: every removed
row is that like the one kept row it stands behind, which is not so of the connected components of likeness, where a
chain of small steps takes what is far apart for one.

Rows come in the order of a hash of their ids, so that the outcome does not hang on how they arrived, and are taken in
blocks, each four times what came before: a block is compared with the kept rows alone, then what is left of it with
itself. However many rows say the same, they meet one kept row each, and not one another.

Rows are compared within cells: those at home in a cell with those that have it among the cells nearest to them. Two
rows are missed only if neither's home is among the other's cells.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cp_ray.near_cells import nearest_cells

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]
    Vectors = NDArray[np.float32]
    Job = tuple[Rows, Rows]
    """Rows to be compared with rows."""

__all__ = ["near_duplicates"]

_FIRST = 4096
"""Rows of the first block."""
_DIRECT = 2**24
"""Up to so many pairs are compared without cells."""
_TASK = 2**25
"""Pairs that a thread or Ray task compares, about: half a second of work."""
_SLACK = 1e-6
"""What float32 makes of the cosine of equal vectors."""


def near_duplicates(vectors: "Vectors", ids: Sequence[str], tau: float, *, on_ray: bool = False) -> "Rows":
    """The kept row that each removed row stands behind, as its index: [n]; -1 for a row that is kept.

    Args:
        vectors: [n, d], of unit length.
        ids: of the rows, each its own.
        tau: the cosine from which two rows are near-duplicates; cells are made for 0.9 and more.
        on_ray: compare in Ray tasks, on all nodes; each node holds the vectors once.

    Raises:
        ValueError: the vectors are not of unit length, or an id comes twice.
    """
    import numpy as np

    if len(set(ids)) != len(ids) or len(ids) != len(vectors):
        raise ValueError(f"ids: must be different, one for each of {len(vectors)} rows")
    order = np.array(sorted(range(len(ids)), key=lambda i: _precedence(ids[i])), np.int64)
    search = _Search(vectors, order, tau - _SLACK, on_ray)
    behind = np.full(len(order), -1, np.int64)
    start, stop = 0, min(_FIRST, len(order))
    while start < len(order):
        block, kept = np.arange(start, stop), np.flatnonzero(behind[:start] < 0)
        _stand_behind(behind, search.pairs(kept, block))
        left = block[behind[block] < 0]
        _stand_behind(behind, search.pairs(left, left))
        start, stop = stop, min(4 * stop, len(order))
    found = np.full(len(order), -1, np.int64)
    found[order] = np.where(behind < 0, -1, order[behind])
    return found


class _Search:
    """Finds pairs. Rows are given by their precedence, 0 first."""

    def __init__(self, vectors: "Vectors", order: "Rows", least: float, on_ray: bool) -> None:
        import numpy as np

        self.vectors, self.order, self.least = vectors, order, least
        self.rank = np.empty_like(order)
        self.rank[order] = np.arange(len(order))
        self.cells = nearest_cells(vectors, order)
        self.shared: Any = None
        if on_ray:
            import ray

            self.shared = ray.put(vectors)
            self.vectors = ray.get(self.shared)  # the store's, so that the caller's need not be held as well

    def pairs(self, first: "Rows", second: "Rows") -> "Rows":
        """All pairs of one of `first` and a later one of `second`: [m, 2], the earlier row first, sorted by the later.

        `first` is `second`, or comes before it whole.
        """
        import numpy as np

        if not len(first) or not len(second):
            return np.zeros((0, 2), np.int64)
        jobs = ((self.order[a], self.order[b]) for a, b in self._jobs(first, second))
        found = np.concatenate([np.zeros((0, 2), np.int64), *self._compared(jobs)])
        ranks = np.sort(self.rank[found], axis=1)
        ranks = ranks[ranks[:, 0] < ranks[:, 1]]
        return ranks[np.lexsort((ranks[:, 0], ranks[:, 1]))]

    def _jobs(self, first: "Rows", second: "Rows") -> Iterator["Job"]:
        if len(first) * len(second) <= _DIRECT or self.cells.shape[1] == 1:
            yield first, second
            return
        yield from _meetings(self.cells, first, second)
        if first is not second:
            yield from _meetings(self.cells, second, first, strangers=True)

    def _compared(self, jobs: Iterable["Job"]) -> Iterator["Rows"]:
        if self.shared is None:
            yield from _compare_in_threads(self.vectors, jobs, self.least)
            return
        import ray

        task: Any = ray.remote(num_cpus=1)(_compare_all)
        yield from ray.get([task.remote(self.shared, part, self.least) for part in _parts(jobs)])


def _meetings(cells: "NDArray[np.int32]", home: "Rows", visitors: "Rows", strangers: bool = False) -> Iterator["Job"]:
    """Of each cell, the rows of `home` that are nearest to it, and the `visitors` that have it among their cells.

    `strangers`: without the visitors that are at home there.
    """
    import numpy as np

    there = home[np.argsort(cells[home, 0], kind="stable")]
    skip = int(strangers)
    among = cells[visitors, skip:].ravel()
    sorting = np.argsort(among, kind="stable")
    among, guests = among[sorting], visitors[sorting // (cells.shape[1] - skip)]
    names, starts = np.unique(cells[there, 0], return_index=True)
    low, high = np.searchsorted(among, names, "left"), np.searchsorted(among, names, "right")
    for own, a, b in zip(np.split(there, starts[1:]), low, high, strict=True):
        if a < b:
            yield own, guests[a:b]


def _compare(vectors: "Vectors", jobs: Iterable["Job"], least: float, side: int = 4096) -> Iterator["Rows"]:
    """Pairs [m, 2] of rows that are at least so like, a block of at most `side` by `side` at a time."""
    import numpy as np

    for first, second in jobs:
        for a in range(0, len(first), side):
            some = vectors[first[a : a + side]]
            for b in range(0, len(second), side):
                others = second[b : b + side]
                i, k = np.divmod(np.flatnonzero(some @ vectors[others].T >= least), len(others))
                yield np.stack([first[a + i], others[k]], axis=1)


def _compare_in_threads(vectors: "Vectors", jobs: Iterable["Job"], least: float) -> Iterator["Rows"]:
    """A thread for each core and none within a product: there the two would wait for one another at every job."""
    import os
    from concurrent.futures import ThreadPoolExecutor

    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(lambda part: _compare_all(vectors, part, least), _parts(jobs))


def _compare_all(vectors: "Vectors", jobs: Sequence["Job"], least: float) -> "Rows":
    """The work of one thread or Ray task."""
    import numpy as np

    return np.concatenate(list(_compare(vectors, jobs, least)))


def _parts(jobs: Iterable["Job"]) -> Iterator[list["Job"]]:
    part: list[Job] = []
    size = 0
    for job in jobs:
        part.append(job)
        size += len(job[0]) * len(job[1])
        if size >= _TASK:
            yield part
            part, size = [], 0
    if part:
        yield part


def _stand_behind(behind: "Rows", pairs: "Rows") -> None:
    """Put each later row behind the first kept row that it is like; `pairs` are sorted by the later row."""
    for earlier, later in pairs.tolist():
        if behind[later] < 0 and behind[earlier] < 0:
            behind[later] = earlier


def _precedence(id: str) -> tuple[bytes, str]:
    return hashlib.blake2b(id.encode(), digest_size=8).digest(), id
