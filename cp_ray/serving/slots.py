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

    def of(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values; room is made for what it makes, [tokens, heads, size of a head] twice."""
        if layer not in self.keys:
            for part, like in ((self.keys, key), (self.values, value)):
                part[layer] = like.new_zeros(_ROWS, like.shape[1], self.room, like.shape[2])
        return self.keys[layer], self.values[layer]

    def move(self, place: int, to: int, tokens: int) -> None:
        """Copy a chat to another place."""
        for part in (*self.keys.values(), *self.values.values()):
            part[to, :, :tokens] = part[place, :, :tokens]


@dataclass(slots=True)
class _Singles:
    """Chats of a block that get one token each in a pass, attended to in one call."""

    block: _Block
    places: list[int]
    before: list[int]
    """Tokens of each before the pass."""
    device: str
    dtype: torch.dtype
    masks: dict[tuple[int, int | None], Tensor | None] = field(default_factory=dict)
    """By heads to a group and window: what each token sees [chats, 1, heads, columns]; None: everything."""
    where: tuple[Tensor, Tensor] | None = None
    """Places and columns of the new tokens."""

    @property
    def tokens(self) -> int:
        """That are fed."""
        return len(self.places)

    @property
    def columns(self) -> int:
        """The longest chat after the pass."""
        return max(self.before) + 1

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float,
        softcap: float | None,
    ) -> Tensor:  # fmt: skip
        """As `Slots.attend`."""
        keys, values = self._write(layer, key, value)
        groups = keys.shape[1]
        # The heads that share keys are one head with as many tokens, so no key is repeated.
        together = query.reshape(len(query), groups, -1, query.shape[2])
        mask = self._mask(query.shape[1] // groups, window)
        if softcap is None:
            seen = scaled_dot_product_attention(together, keys, values, mask, scale=scale)
        else:
            seen = _capped(together, keys, values, mask, scale, softcap)
        return seen.reshape(query.shape)

    def _write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self.where is None:
            places, columns = (torch.tensor(v, device=self.device) for v in (self.places, self.before))
            self.where = places, columns
        keys, values = self.block.of(layer, key, value)
        keys[self.where[0], :, self.where[1]] = key
        values[self.where[0], :, self.where[1]] = value
        first, n = self.places[0], len(self.places)
        if self.places == list(range(first, first + n)):
            return keys[first : first + n, :, : self.columns], values[first : first + n, :, : self.columns]
        return keys[self.places, :, : self.columns], values[self.places, :, : self.columns]

    def _mask(self, heads: int, window: int | None) -> Tensor | None:
        kind = (heads, window)
        if kind not in self.masks:
            everything = len(set(self.before)) == 1 and (window is None or self.columns <= window)
            ends = torch.tensor(self.before, device=self.device)[:, None, None, None]
            columns, dtype = self.columns, self.dtype
            self.masks[kind] = None if everything else _seen(ends, columns, window, dtype).repeat(1, 1, heads, 1)
        return self.masks[kind]


@dataclass(slots=True)
class _Piece:
    """Several tokens of one chat."""

    block: _Block
    place: int
    before: int
    """Tokens of the chat before the pass."""
    tokens: int
    """That are fed."""
    device: str
    dtype: torch.dtype
    masks: dict[int | None, Tensor | None] = field(default_factory=dict)
    """By window: what each token sees [1, 1, tokens, columns]; None: all before it, of which few are in the cache."""

    @property
    def columns(self) -> int:
        """The chat's tokens after the pass."""
        return self.before + self.tokens

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float,
        softcap: float | None,
    ) -> Tensor:  # fmt: skip
        """As `Slots.attend`."""
        kept = self.block.of(layer, key, value)
        for part, new in zip(kept, (key, value), strict=True):
            part[self.place, :, self.before : self.columns] = new.transpose(0, 1)
        keys, values = (part[self.place : self.place + 1, :, : self.columns] for part in kept)
        own, mask = query.transpose(0, 1)[None], self._mask(window)
        if softcap is None and mask is None:
            # Tokens that are in the cache are asked for again and thrown away, where they are few: without a mask
            # what is not seen is not computed.
            padded = torch.nn.functional.pad(own, (0, 0, self.before, 0)) if self.before else own
            seen = scaled_dot_product_attention(padded, keys, values, is_causal=True, scale=scale, enable_gqa=True)
            seen = seen[:, :, self.before :]
        elif softcap is None:
            seen = scaled_dot_product_attention(own, keys, values, mask, scale=scale, enable_gqa=True)
        else:
            more = query.shape[1] // keys.shape[1]
            keys, values = keys.repeat_interleave(more, 1), values.repeat_interleave(more, 1)
            seen = _capped(own, keys, values, self._seen(window) if mask is None else mask, scale, softcap)
        return seen[0].transpose(0, 1)

    def _mask(self, window: int | None) -> Tensor | None:
        if window not in self.masks:
            few = 4 * self.before <= self.tokens
            self.masks[window] = None if few and (window is None or self.columns <= window) else self._seen(window)
        return self.masks[window]

    def _seen(self, window: int | None) -> Tensor:
        at = torch.arange(self.before, self.columns, device=self.device)[None, None, :, None]
        return _seen(at, self.columns, window, self.dtype)


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
        self._parts: list[_Singles | _Piece] = []

    def append(self, state: RowState | None, expected: int = 0) -> None:
        """A chat joins, in the next slot.

        Args:
            state: what is known of it.
            expected: tokens that it will have, as far as can be told: chats of like length are kept together.
        """
        tokens = state.tokens if state else 0
        block = self._block_for(max(tokens, expected))
        place = block.chats
        block.chats += 1
        self._where.append((block, place))
        self.lengths.append(tokens)
        if state is not None:
            for layer, known in enumerate(state.layers):
                for part, new in zip(block.of(layer, *(k.transpose(0, 1) for k in known)), known, strict=True):
                    part[place, :, :tokens] = new

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

    def state(self, slot: int) -> RowState:
        """A copy of one chat's keys and values."""
        (block, place), tokens = self._where[slot], self.lengths[slot]
        return RowState(
            tuple(
                (block.keys[layer][place, :, :tokens].clone(), block.values[layer][place, :, :tokens].clone())
                for layer in sorted(block.keys)
            )
        )

    def begin(self, slots: Sequence[int], counts: Sequence[int]) -> tuple[list[int], Tensor]:
        """Get ready for a pass in which chats get new tokens, fed one behind the other.

        Args:
            slots: of the chats.
            counts: of each, its new tokens: at least one.

        Returns:
            The chats' places in `slots` in the order in which they are to be fed, those with a single token first, and
            the position of each token.
        """
        singles: dict[int, list[int]] = {}
        for k, slot in enumerate(slots):
            if counts[k] == 1:
                singles.setdefault(id(self._where[slot][0]), []).append(k)
        order: list[int] = []
        self._parts = []
        for own in singles.values():
            own.sort(key=lambda k: self._where[slots[k]][1])
            block, places = self._where[slots[own[0]]][0], [self._where[slots[k]][1] for k in own]
            part = _Singles(block, places, [self.lengths[slots[k]] for k in own], self._device, self._dtype)
            self._parts.append(part)
            order += own
        for k, slot in enumerate(slots):
            if counts[k] > 1:
                (block, place), before = self._where[slot], self.lengths[slot]
                self._parts.append(_Piece(block, place, before, counts[k], self._device, self._dtype))
                order.append(k)
        for one in self._parts:
            one.block.grow(one.columns)
        positions = [self.lengths[slots[k]] + i for k in order for i in range(counts[k])]
        for slot, count in zip(slots, counts, strict=True):
            self.lengths[slot] += count
        return order, torch.tensor(positions, device=self._device)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None = None
    ) -> Tensor:
        """Add a layer's new keys and values, and let every token see those of its chat up to its own.

        Args:
            layer: which.
            query: [tokens, heads, size of a head], as is fed; what comes after the last chat's is padding.
            key: [tokens, groups of heads, size of a head].
            value: as `key`.
            scale: of the products.
            softcap: what their size comes near to at most, as in Gemma 2.

        Returns:
            [tokens, heads, size of a head].
        """
        out = query.new_zeros(query.shape[0], query.shape[1], value.shape[2])
        first, window = 0, self._windows[layer]
        for part in self._parts:
            own = slice(first, first + part.tokens)
            out[own] = part.attend(layer, query[own], key[own], value[own], window, scale, softcap)
            first += part.tokens
        return out

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


def _seen(at: Tensor, columns: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of tokens that stand at these places [..., 1]: [..., columns]."""
    behind = at - torch.arange(columns, device=at.device)
    allowed = behind >= 0 if window is None else (behind >= 0) & (behind < window)
    empty = torch.zeros(allowed.shape, dtype=dtype, device=at.device)
    return empty.masked_fill(~allowed, torch.finfo(dtype).min)


def _rounded(tokens: int) -> int:
    return -(-tokens // _TOKENS) * _TOKENS
