"""Which adapters of a replica are in use, so that one that is not served any more goes when its last answer has."""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator

__all__ = ["Uses"]


class Uses:
    """Counts the requests for each adapter. For one event loop."""

    def __init__(self, drop: Callable[[str], None], always: Collection[str]) -> None:
        """Count nothing yet.

        Args:
            drop: called with the name of an adapter that is not served any more and that nothing uses.
            always: names of those that are never dropped.
        """
        self._drop, self._always = drop, frozenset(always)
        self._under_way = Counter[str]()
        self._gone: set[str] = set()
        """Kept for good: a request that was on its way may bring one once more."""

    def __contains__(self, name: str) -> bool:
        return self._under_way[name] > 0

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """A request uses an adapter while inside."""
        self._under_way[name] += 1
        try:
            yield
        finally:
            self._under_way[name] -= 1
            self._ended(name)

    def forget(self, name: str) -> None:
        """An adapter is not served any more."""
        if name not in self._always:
            self._gone.add(name)
            self._ended(name)

    def _ended(self, name: str) -> None:
        if not self._under_way[name]:
            del self._under_way[name]
            if name in self._gone:
                self._drop(name)
