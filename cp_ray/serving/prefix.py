"""Keys and values of chats that may go on.

A dialogue's next prompt repeats all that was said before, so its keys and values need not be computed again. Each
tenant's are kept for itself: how much of a prompt was known, and how soon it is answered, tells what others asked.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

__all__ = ["PrefixCache", "RowState"]


@dataclass(frozen=True, slots=True)
class RowState:
    """A chat's keys and values, without padding."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    """Per layer [heads, tokens, size of a head] twice."""

    @property
    def tokens(self) -> int:
        """Tokens it holds."""
        return self.layers[0][0].shape[1] if self.layers else 0

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return sum(k.nbytes + v.nbytes for k, v in self.layers)

    def first(self, tokens: int) -> "RowState":
        """The state after the first tokens only."""
        return RowState(tuple((k[:, :tokens], v[:, :tokens]) for k, v in self.layers))


@dataclass(frozen=True, slots=True)
class _Kept:
    ids: "np.ndarray[tuple[int], np.dtype[np.int64]]"
    state: RowState


class PrefixCache:
    """The states of the chats seen last, found by the tokens they begin with."""

    def __init__(self, max_bytes: int) -> None:
        """Hold at most `max_bytes`; the chats used longest ago go first."""
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[str, str, bytes], _Kept] = OrderedDict()
        self._bytes = 0

    def find(self, tenant: str, model: str, ids: Sequence[int]) -> RowState | None:
        """A tenant's longest known state that `ids` begin with, at least one token shorter than `ids`."""
        new = np.asarray(ids, dtype=np.int64)
        best, key = 0, None
        for candidate, kept in self._kept.items():
            if candidate[:2] == (tenant, model) and (shared := _common(kept.ids, new)) > best:
                best, key = shared, candidate
        best = min(best, len(ids) - 1)
        if key is None or best < 1:
            return None
        self._kept.move_to_end(key)
        return self._kept[key].state.first(best)

    def put(self, tenant: str, model: str, ids: Sequence[int], state: RowState) -> None:
        """Keep the state after `ids` for a tenant, in the place of what is known of its beginning."""
        new = np.asarray(ids, dtype=np.int64)
        own = [(key, kept.ids) for key, kept in self._kept.items() if key[:2] == (tenant, model)]
        covered = [key for key, known in own if _common(known, new) == len(known)]
        for key in covered:
            self._bytes -= self._kept.pop(key).state.nbytes
        self._kept[tenant, model, new.tobytes()] = _Kept(new, state)
        self._bytes += state.nbytes
        while self._bytes > self._max_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].state.nbytes


def _common(a: "np.ndarray[tuple[int], np.dtype[np.int64]]", b: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> int:
    shorter = min(len(a), len(b))
    differing = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(differing[0]) if len(differing) else shorter
