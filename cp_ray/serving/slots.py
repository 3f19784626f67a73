"""Keys and values of the chats of a batch, a slot each, that chats join and leave one by one.

A slot holds its chat's tokens from its beginning on, so a position is an index and a chat's neighbours move nothing.
Slots in use lie next to each other: a pass sees a view of them, and only what is new is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from cp_ray.errors import BaseModelError
from cp_ray.serving.prefix import RowState

__all__ = ["Slots"]

_TOKENS = 256
"""Capacity grows by so many tokens at least."""
_ROWS = 4
"""And by so many slots."""


@dataclass(slots=True)
class _Pass:
    """What a forward pass writes, and what it sees."""

    row: Tensor
    """[new tokens], whose slot each goes to."""
    query: Tensor
    """[new tokens], where it stands among what is fed."""
    column: Tensor
    """[new tokens], its position in the chat."""
    rows: int
    columns: int
    capacity: tuple[int, int]
    """Slots, and tokens in each."""


class _SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values: [slots, heads, tokens, size of a head] twice."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: _Pass | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate room for one pass."""
        assert self.now is not None
        slots, tokens = self.now.capacity
        self.keys, self.values = (
            part.new_zeros(slots, part.shape[1], tokens, part.shape[3]) for part in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write what is new into its slots: the keys and values of all rows."""
        now = self.now
        assert now is not None
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        self.keys[now.row, :, now.column] = key_states[now.row, :, now.query]
        self.values[now.row, :, now.column] = value_states[now.row, :, now.query]
        return self.keys[: now.rows, :, : now.columns], self.values[: now.rows, :, : now.columns]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Of masks that transformers would make; ours are made here."""
        return self.get_seq_length(), 0

    def get_seq_length(self) -> int:
        """The longest chat."""
        return self.now.columns if self.now else 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1

    def resize(self, slots: int, tokens: int) -> None:
        """Move into other tensors; what is beyond their end is not in use."""
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)[:slots, :, :tokens]
            new = old.new_zeros(slots, old.shape[1], tokens, old.shape[3])
            new[: old.shape[0], :, : old.shape[2]] = old
            setattr(self, name, new)

    def take(self, slot: int, tokens: int) -> tuple[Tensor, Tensor]:
        """A copy of one chat's keys and values: [heads, tokens, size of a head] twice."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys[slot, :, :tokens].clone(), self.values[slot, :, :tokens].clone()

    def put(self, slot: int, part: tuple[Tensor, Tensor]) -> None:
        """Write one chat's keys and values."""
        keys, values = part
        if not self.is_initialized:
            self.lazy_initialization(keys[None], values[None])
        assert self.keys is not None
        assert self.values is not None
        self.keys[slot, :, : keys.shape[1]] = keys
        self.values[slot, :, : values.shape[1]] = values


class Slots:
    """The cache of a batch."""

    def __init__(self, config: Any, device: str, dtype: torch.dtype) -> None:
        """Empty.

        Args:
            config: the model's.
            device: where the model is.
            dtype: what it computes in.

        Raises:
            BaseModelError: the model keeps something else than keys and values.
        """
        text = config.get_text_config(decoder=True)
        kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
        if kinds:
            raise BaseModelError(f"base model: its layers are {', '.join(sorted(kinds))}; only attention can be served")
        self._layers = [_SlotLayer() for _ in range(text.num_hidden_layers)]
        self.cache = Cache(layers=[*self._layers])
        self.lengths: list[int] = []
        """Tokens of each chat."""
        self._device, self._dtype = device, dtype
        self._window: int | None = getattr(text, "sliding_window", None)
        self._by_kind = getattr(text, "layer_types", None) is not None
        self._capacity = (0, 0)

    def append(self, state: RowState | None) -> None:
        """A chat joins, in the next slot."""
        tokens = state.tokens if state else 0
        self._fit(len(self.lengths) + 1, tokens)
        if state is not None:
            for layer, part in zip(self._layers, state.layers, strict=True):
                layer.now = self._pass([], [], [])
                layer.put(len(self.lengths), part)
        self.lengths.append(tokens)

    def remove(self, slot: int) -> None:
        """A chat leaves; the last one takes its slot."""
        last = len(self.lengths) - 1
        if slot != last:
            for layer in self._layers:
                layer.put(slot, layer.take(last, self.lengths[last]))
            self.lengths[slot] = self.lengths[last]
        self.lengths.pop()
        if not self.lengths:
            self._release()

    def swap(self, one: int, other: int) -> None:
        """Two chats change places."""
        for layer in self._layers:
            kept = layer.take(one, self.lengths[one])
            layer.put(one, layer.take(other, self.lengths[other]))
            layer.put(other, kept)
        self.lengths[one], self.lengths[other] = self.lengths[other], self.lengths[one]

    def state(self, slot: int) -> RowState:
        """A copy of one chat's keys and values."""
        return RowState(tuple(layer.take(slot, self.lengths[slot]) for layer in self._layers))

    def begin(self, counts: Sequence[int]) -> tuple[Tensor, Any]:
        """Get ready for a pass in which each of the first rows gets so many new tokens, padded on the left.

        Returns:
            The positions [rows, longest], and the mask as the model takes it.
        """
        longest, before = max(counts), self.lengths[: len(counts)]
        after = [length + count for length, count in zip(before, counts, strict=True)]
        self._fit(len(self.lengths), max(after))
        row = [r for r, count in enumerate(counts) for _ in range(count)]
        query = [longest - count + k for count in counts for k in range(count)]
        column = [length + k for length, count in zip(before, counts, strict=True) for k in range(count)]
        now = self._pass(row, query, column)
        now.rows, now.columns = len(counts), max(after)
        for layer in self._layers:
            layer.now = now
        ends = torch.tensor(after, device=self._device)[:, None]
        # What pads a row sees its first token, or its softmax would be over nothing; nobody reads what comes out.
        positions = (ends - longest + torch.arange(longest, device=self._device)).clamp(min=0)
        self.lengths[: len(counts)] = after
        return positions, self._masks(positions, max(after))

    def _masks(self, positions: Tensor, columns: int) -> Any:
        behind = positions[:, None, :, None] - torch.arange(columns, device=self._device)
        full = _additive(behind >= 0, self._dtype)
        if self._window is None:
            return full
        near = _additive((behind >= 0) & (behind < self._window), self._dtype)
        return {"full_attention": full, "sliding_attention": near} if self._by_kind else near

    def _pass(self, row: list[int], query: list[int], column: list[int]) -> _Pass:
        where = torch.tensor([row, query, column], dtype=torch.long, device=self._device)
        return _Pass(where[0], where[1], where[2], len(self.lengths), 0, self._capacity)

    def _fit(self, rows: int, tokens: int) -> None:
        slots, columns = self._capacity
        if rows <= slots and tokens <= columns:
            return
        # What grows is moved into new tensors, and what the other side has no use for any more is left behind: many
        # short chats after a single long one would else get its length each.
        needed = max([tokens, *self.lengths])
        least = -(-needed // _TOKENS) * _TOKENS
        if tokens > columns:
            slots, columns = rows, max(least, columns * 5 // 4)
        else:
            slots, columns = slots + _ROWS, min(least, columns)
        self._capacity = (slots, columns)
        for layer in self._layers:
            layer.resize(slots, columns)

    def _release(self) -> None:
        """Give the memory of a past rush back."""
        self._capacity = (0, 0)
        for layer in self._layers:
            layer.keys = layer.values = None
            layer.is_initialized = False


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)
