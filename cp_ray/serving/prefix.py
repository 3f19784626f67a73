"""Keys and values of single chats: taken out of a batch, put into one, and kept for chats that go on.

A dialogue's next prompt repeats all that was said before, so its keys and values need not be computed again.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

__all__ = ["PrefixCache", "RowState", "stack", "unstack"]


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


def stack(rows: Sequence[RowState | None]) -> tuple[DynamicCache, Tensor]:
    """One cache for many chats, padded on the left; None is a chat of which nothing is known.

    Returns:
        The cache, and the mask [rows, tokens] that is 1 where a chat has a token.
    """
    lengths = torch.tensor([row.tokens if row else 0 for row in rows])
    longest = int(lengths.max())
    mask = (torch.arange(longest) >= longest - lengths[:, None]).long()
    cache = DynamicCache()
    depth = max(len(row.layers) if row else 0 for row in rows)
    for layer in range(depth):
        keys, values = (_pad([row.layers[layer][part] if row else None for row in rows], longest) for part in (0, 1))
        cache.update(keys, values, layer)
    return cache, mask


def unstack(cache: DynamicCache, mask: Tensor, row: int) -> RowState:
    """The state of one chat of a batch.

    Args:
        cache: of the whole batch.
        mask: [rows, tokens], 1 where a chat has a token; may be a token ahead of the cache.
        row: which chat.
    """
    held = cache.get_seq_length()
    kept = mask[row, :held].bool()
    layers: list[tuple[Tensor, Tensor]] = []
    every: list[Any] = cache.layers
    for layer in every:
        keys, values = layer.keys, layer.values
        layers.append((keys[row][:, kept], values[row][:, kept]))
    return RowState(tuple(layers))


class PrefixCache:
    """The states of the chats seen last, found by the tokens they begin with."""

    def __init__(self, max_bytes: int) -> None:
        """Hold at most `max_bytes`; the chats used longest ago go first."""
        self._max_bytes = max_bytes
        self._states: OrderedDict[tuple[str, tuple[int, ...]], RowState] = OrderedDict()
        self._bytes = 0

    def find(self, model: str, ids: Sequence[int]) -> RowState | None:
        """The longest known state that `ids` begin with, at least one token shorter than `ids`."""
        best, key = 0, None
        for candidate in self._states:
            if candidate[0] == model and (shared := _common(candidate[1], ids)) > best:
                best, key = shared, candidate
        best = min(best, len(ids) - 1)
        if key is None or best < 1:
            return None
        self._states.move_to_end(key)
        return self._states[key].first(best)

    def put(self, model: str, ids: Sequence[int], state: RowState) -> None:
        """Keep the state after `ids`, in the place of what is known of its beginning."""
        new = tuple(ids)
        for key in [k for k in self._states if k[0] == model and k[1] == new[: len(k[1])]]:
            self._bytes -= self._states.pop(key).nbytes
        self._states[model, new] = state
        self._bytes += state.nbytes
        while self._bytes > self._max_bytes:
            self._bytes -= self._states.popitem(last=False)[1].nbytes


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def _pad(rows: Sequence[Tensor | None], length: int) -> Tensor:
    like = next(r for r in rows if r is not None)
    padded = like.new_zeros(len(rows), like.shape[0], length, like.shape[2])
    for i, row in enumerate(rows):
        if row is not None:
            padded[i, :, length - row.shape[1] :] = row
    return padded
