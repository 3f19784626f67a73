"""Keys and values of the chats of a batch, a slot each, that chats join and leave one by one.

A slot holds its chat's tokens from its beginning on, so a position is an index and a chat's neighbours move nothing.
Chats of like length share a block: what a block holds is one tensor a layer, which is attended to in one call, and only
what is new is written. Blocks are small, so that few short chats are padded to a long one's length, and little is moved
where one grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cp_ray.errors import BaseModelError
from cp_ray.serving.prefix import RowState

__all__ = ["Slots"]

_ROWS = 4
"""Chats in a block."""
_TOKENS = 128
"""A block's room for tokens grows by so many at least."""


@dataclass(slots=True, eq=False)
class _Block:
    """A few chats' keys and values, next to each other from the first place on."""

    room: int
    """Tokens in each place."""
    chats: int = 0
    keys: dict[int, Tensor] = field(default_factory=dict)
    """By layer: [places, heads, room, size of a head]."""
    values: dict[int, Tensor] = field(default_factory=dict)

    def grow(self, tokens: int) -> None:
        """Make room for so many."""
        if tokens > self.room:
            self.room = _rounded(max(tokens, self.room * 5 // 4))
            for part in (self.keys, self.values):
                for layer, old in part.items():
                    new = old.new_zeros(*old.shape[:2], self.room, old.shape[3])
                    new[:, :, : old.shape[2]] = old
                    part[layer] = new

    def allocate(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Room for what a layer makes: [..., heads, tokens, size of a head] twice."""
        for part, like in ((self.keys, key), (self.values, value)):
            part[layer] = like.new_zeros(_ROWS, like.shape[-3], self.room, like.shape[-1])

    def move(self, place: int, to: int, tokens: int) -> None:
        """Copy a chat to another place."""
        for part in (*self.keys.values(), *self.values.values()):
            part[to, :, :tokens] = part[place, :, :tokens]


@dataclass(slots=True)
class _Part:
    """What a pass does in a block."""

    block: _Block
    rows: slice
    """Of what is fed."""
    places: list[int]
    before: list[int]
    """Tokens of each before the pass."""
    counts: list[int]
    """New ones of each."""
    length: int
    """Of what is fed, padding on the left included."""
    device: str
    dtype: torch.dtype
    masks: dict[tuple[int, int | None], Tensor | None] = field(default_factory=dict)
    """By groups and window: what each token sees [rows, 1, groups x length, columns]; None: everything."""
    where: tuple[Tensor, Tensor] | None = None
    """Places and columns of single new tokens."""

    @property
    def columns(self) -> int:
        """The longest chat after the pass."""
        return max(b + c for b, c in zip(self.before, self.counts, strict=True))

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add what is new, [rows, heads, length, size of a head] twice: all keys and values of the chats."""
        if layer not in self.block.keys:
            self.block.allocate(layer, key, value)
        keys, values = self.block.keys[layer], self.block.values[layer]
        if self.length == 1 and all(self.counts):
            if self.where is None:
                places, columns = (torch.tensor(v, device=self.device) for v in (self.places, self.before))
                self.where = places, columns
            keys[self.where[0], :, self.where[1]] = key[:, :, 0]
            values[self.where[0], :, self.where[1]] = value[:, :, 0]
        else:
            for row, (place, before, count) in enumerate(zip(self.places, self.before, self.counts, strict=True)):
                keys[place, :, before : before + count] = key[row, :, self.length - count :]
                values[place, :, before : before + count] = value[row, :, self.length - count :]
        first, rows = self.places[0], len(self.places)
        if self.places == list(range(first, first + rows)):
            return keys[first : first + rows, :, : self.columns], values[first : first + rows, :, : self.columns]
        return keys[self.places, :, : self.columns], values[self.places, :, : self.columns]

    def positions(self) -> Tensor:
        """[rows, length]; what pads a row stands at its beginning."""
        ends = torch.tensor([b + c for b, c in zip(self.before, self.counts, strict=True)], device=self.device)[:, None]
        # What pads a row sees its first token, or its softmax would be over nothing; nobody reads what comes out.
        return (ends - self.length + torch.arange(self.length, device=self.device)).clamp(min=0)

    def mask(self, groups: int, window: int | None) -> Tensor | None:
        """As `masks` has it."""
        kind = (groups, window)
        if kind not in self.masks:
            alike = self.length == 1 and len(set(self.before)) == 1 and all(self.counts)
            seen = None if alike and (window is None or self.columns <= window) else self._seen(window)
            self.masks[kind] = None if seen is None else seen.repeat(1, 1, groups, 1)
        return self.masks[kind]

    def _seen(self, window: int | None) -> Tensor:
        behind = self.positions()[:, None, :, None] - torch.arange(self.columns, device=self.device)
        allowed = behind >= 0 if window is None else (behind >= 0) & (behind < window)
        empty = torch.zeros(allowed.shape, dtype=self.dtype, device=self.device)
        return empty.masked_fill(~allowed, torch.finfo(self.dtype).min)


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
        kinds: list[str] | None = getattr(text, "layer_types", None)
        strange = set(kinds or ()) - {"full_attention", "sliding_attention"}
        if strange:
            raise BaseModelError(
                f"base model: its layers are {', '.join(sorted(strange))}; only attention can be served"
            )
        self._device, self._dtype = device, dtype
        window: int | None = getattr(text, "sliding_window", None)
        # Where nothing tells the layers apart, a window is for all of them.
        self._windows = [
            window if kinds is None or kinds[layer] == "sliding_attention" else None
            for layer in range(text.num_hidden_layers)
        ]
        self.lengths: list[int] = []
        """Tokens of each chat."""
        self._blocks: list[_Block] = []
        self._where: list[tuple[_Block, int]] = []
        """Block and place of each chat."""
        self._parts: list[_Part] = []

    def append(self, state: RowState | None) -> None:
        """A chat joins, in the next slot."""
        tokens = state.tokens if state else 0
        block = self._block_for(tokens)
        place = block.chats
        block.chats += 1
        self._where.append((block, place))
        self.lengths.append(tokens)
        if state is not None:
            for layer, (keys, values) in enumerate(state.layers):
                if layer not in block.keys:
                    block.allocate(layer, keys, values)
                block.keys[layer][place, :, :tokens] = keys
                block.values[layer][place, :, :tokens] = values

    def remove(self, slot: int) -> None:
        """A chat leaves; the last one takes its slot."""
        block, place = self._where[slot]
        block.chats -= 1
        if place != block.chats:
            moved = self._where.index((block, block.chats))
            block.move(block.chats, place, self.lengths[moved])
            self._where[moved] = (block, place)
        self._where[slot], self.lengths[slot] = self._where[-1], self.lengths[-1]
        self._where.pop()
        self.lengths.pop()
        if not block.chats:
            self._blocks.remove(block)
        self._parts = []  # they hold blocks

    def swap(self, one: int, other: int) -> None:
        """Two chats change slots."""
        self._where[one], self._where[other] = self._where[other], self._where[one]
        self.lengths[one], self.lengths[other] = self.lengths[other], self.lengths[one]

    def state(self, slot: int) -> RowState:
        """A copy of one chat's keys and values."""
        (block, place), tokens = self._where[slot], self.lengths[slot]
        return RowState(
            tuple(
                (block.keys[layer][place, :, :tokens].clone(), block.values[layer][place, :, :tokens].clone())
                for layer in sorted(block.keys)
            )
        )

    def begin(self, counts: Sequence[int], length: int) -> tuple[list[int], Tensor]:
        """Get ready for a pass in which each of the first rows gets so many new tokens, padded on the left.

        Args:
            counts: of each row, in slot order.
            length: that all are padded to.

        Returns:
            The rows in the order in which they are to be fed, and the positions of what is fed [rows, length].
        """
        by_block: dict[int, list[int]] = {}
        for row in range(len(counts)):
            by_block.setdefault(id(self._where[row][0]), []).append(row)
        order: list[int] = []
        self._parts = []
        for rows in by_block.values():
            rows.sort(key=lambda row: self._where[row][1])
            before, new = [self.lengths[row] for row in rows], [counts[row] for row in rows]
            block, fed = self._where[rows[0]][0], slice(len(order), len(order) + len(rows))
            places = [self._where[row][1] for row in rows]
            part = _Part(block, fed, places, before, new, length, self._device, self._dtype)
            block.grow(part.columns)
            self._parts.append(part)
            order += rows
        for row, count in enumerate(counts):
            self.lengths[row] += count
        return order, torch.cat([part.positions() for part in self._parts])

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None = None
    ) -> Tensor:
        """Add a layer's new keys and values, and let every token see those of its chat up to its own.

        The heads that share keys are one head with as many times the tokens, so no key is repeated.

        Args:
            layer: which.
            query: [rows, heads, length, size of a head], as is fed.
            key: [rows, groups of heads, length, size of a head].
            value: as `key`.
            scale: of the products.
            softcap: what their size comes near to at most, as in Gemma 2.

        Returns:
            [rows, length, heads, size of a head].
        """
        out = []
        for part in self._parts:
            keys, values = part.write(layer, key[part.rows], value[part.rows])
            own = query[part.rows]
            together = own.reshape(len(own), keys.shape[1], -1, own.shape[3])
            mask = part.mask(own.shape[1] // keys.shape[1], self._windows[layer])
            if softcap is None:
                seen = scaled_dot_product_attention(together, keys, values, mask, scale=scale)
            else:
                seen = _capped(together, keys, values, mask, scale, softcap)
            out.append(seen.view(*own.shape[:3], -1))
        return (torch.cat(out) if len(out) > 1 else out[0]).transpose(1, 2)

    def _block_for(self, tokens: int) -> _Block:
        """One of little more room than such a chat needs, with a place left."""
        room = _rounded(tokens + _TOKENS // 2)
        fitting = [b for b in self._blocks if b.chats < _ROWS and tokens < b.room <= max(room * 5 // 4, room + _TOKENS)]
        if fitting:
            return min(fitting, key=lambda block: block.room)
        self._blocks.append(_Block(room))
        return self._blocks[-1]


def _capped(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float, softcap: float) -> Tensor:
    scores = torch.tanh(query @ keys.transpose(2, 3) * (scale / softcap)) * softcap
    return torch.softmax(scores if mask is None else scores + mask, dim=-1, dtype=torch.float32).to(query) @ values


def _rounded(tokens: int) -> int:
    return -(-tokens // _TOKENS) * _TOKENS
