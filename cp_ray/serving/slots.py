"""Keys and values of the chats of a batch, a slot each, that chats join and leave one by one.

A slot holds its chat's tokens from its beginning on, so a position is an index and a chat's neighbours move nothing.
Chats of like length share a block: what a block holds is one tensor a layer, which is attended to in one call, and only
what is new is written. Blocks are small, so that few short chats are padded to a long one's length, and little is moved
where one grows.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cp_ray.errors import BaseModelError
from cp_ray.serving.blocks import PLACES, TOKENS, Block, Several, Singles, rounded
from cp_ray.serving.prefix import RowState

__all__ = ["Slots"]


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
        self._blocks: list[Block] = []
        self._where: list[tuple[Block, int]] = []
        """Block and place of each chat."""
        self._parts: list[Singles | Several] = []

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

    def remove(self, slot: int, *, clean: bool = True) -> None:
        """A chat leaves; the last one takes its slot.

        `clean`: its keys and values are finite. Others would be left to the next chat in its place: what a chat does
        not see yet counts zero times, which is zero of finite numbers only.
        """
        block, place = self._where[slot]
        if not clean:
            block.clear(place)
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
            part = Singles(block, places, [self.lengths[slots[k]] for k in own], self._device, self._dtype)
            self._parts.append(part)
            order += own
        for k, slot in enumerate(slots):
            if counts[k] > 1:
                (block, place), before = self._where[slot], self.lengths[slot]
                self._parts.append(Several(block, place, before, counts[k], self._device, self._dtype))
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

    def _block_for(self, tokens: int) -> Block:
        """One of little more room than such a chat needs, with a place left."""
        room = rounded(tokens + TOKENS // 2)
        most = max(room * 5 // 4, room + TOKENS)
        fitting = [b for b in self._blocks if b.chats < PLACES and tokens < b.room <= most]
        if fitting:
            return min(fitting, key=lambda block: block.room)
        self._blocks.append(Block(room))
        return self._blocks[-1]
