"""A few chats' keys and values next to each other, and what a pass does in them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

__all__ = ["PLACES", "TOKENS", "Block", "Several", "Singles", "rounded"]

PLACES = 4
"""Chats in a block."""
TOKENS = 128
"""A block's room for tokens grows by so many at least."""


@dataclass(slots=True, eq=False)
class Block:
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
            self.room = rounded(max(tokens, self.room * 5 // 4))
            for part in (self.keys, self.values):
                for layer, old in part.items():
                    new = old.new_zeros(*old.shape[:2], self.room, old.shape[3])
                    new[:, :, : old.shape[2]] = old
                    part[layer] = new

    def of(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values; room is made for what it makes, [tokens, heads, size of a head] twice."""
        if layer not in self.keys:
            for part, like in ((self.keys, key), (self.values, value)):
                part[layer] = like.new_zeros(PLACES, like.shape[1], self.room, like.shape[2])
        return self.keys[layer], self.values[layer]

    def move(self, place: int, to: int, tokens: int) -> None:
        """Copy a chat to another place."""
        for part in (*self.keys.values(), *self.values.values()):
            part[to, :, :tokens] = part[place, :, :tokens]

    def clear(self, place: int) -> None:
        """Zero what a chat leaves."""
        for part in (*self.keys.values(), *self.values.values()):
            part[place].zero_()


@dataclass(slots=True)
class Singles:
    """Chats of a block that get one token each in a pass, attended to in one call."""

    block: Block
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
        return seen.reshape(*query.shape[:2], -1)

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
class Several:
    """Several tokens of one chat."""

    block: Block
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
            padded = pad(own, (0, 0, self.before, 0)) if self.before else own
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


def _capped(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float, softcap: float) -> Tensor:
    scores = torch.tanh(query @ keys.transpose(2, 3) * (scale / softcap)) * softcap
    return torch.softmax(scores if mask is None else scores + mask, dim=-1, dtype=torch.float32).to(query) @ values


def _seen(at: Tensor, columns: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of tokens that stand at these places [..., 1]: [..., columns]."""
    behind = at - torch.arange(columns, device=at.device)
    allowed = behind >= 0 if window is None else (behind >= 0) & (behind < window)
    empty = torch.zeros(allowed.shape, dtype=dtype, device=at.device)
    return empty.masked_fill(~allowed, torch.finfo(dtype).min)


def rounded(tokens: int) -> int:
    """Room for at least so many."""
    return -(-tokens // TOKENS) * TOKENS
