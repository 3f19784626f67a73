"""A linear layer with a stack of LoRA adapters beside it, of which each row of a batch takes one.

Each layer holds its adapters' A matrices as one tensor and their B matrices as another, a place for each adapter. Rows
are seated by their adapters, so that a pass is two batched products in which every adapter meets its own rows alone. As
many rows are seated for each adapter as the most wanted one has; where most seats would stay empty, or there is so
little to compute that seating takes longer, all rows meet all adapters in two dense products, and a mask zeroes what
belongs to others. Where all rows have the same adapter, they are plain products.

Chats may be fed one behind the other as well, with no padding between them: those with a single token, which are seated
as rows are, then pieces of several tokens, each a plain product of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cp_ray.peft_folder import Added

__all__ = ["Selection", "StackedLinear"]

_SEATS = 2
"""Seats for each row up to which rows are seated."""
_RANKS = 128
"""Of all adapters together, up to which a token a row in 16 bits is sooner multiplied by all of them than seated."""


@dataclass(frozen=True, slots=True)
class _Seats:
    """Where rows sit: beside each other by adapter, the same number for each."""

    rows: Tensor
    """[places x most], the row in each seat; one that stays empty has some row, whose result nobody takes."""
    own: Tensor
    """[adapted rows], seat of each."""
    adapted: Tensor
    """[adapted rows], those that have an adapter."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens of one adapter, next to each other."""

    tokens: slice
    place: int


@dataclass(slots=True)
class Selection:
    """Which adapter each row of the batch is under now; one for all layers."""

    places: Tensor | None = None
    """[rows], place of each row's adapter, -1 for the bare base; None: all rows are the bare base."""
    front: int = 0
    """Places that a pass runs over."""
    seats: _Seats | None = None
    """None: too many would stay empty."""
    only: int | None = None
    """The place that all rows have; None: they have several, or some have none."""
    pieces: tuple[_Piece, ...] | None = None
    """What comes after the rows, which have one token each then; None: rows have as many tokens as there are."""
    masks: dict[int, Tensor] = field(default_factory=dict)
    """By rank: [rows, front x rank], whether it is another adapter's."""

    def choose(self, places: Sequence[int], device: torch.device, counts: Sequence[int] | None = None) -> None:
        """Select a place for each row, -1 for none.

        Args:
            places: of the rows.
            device: where the layers are.
            counts: tokens of each row, if they are fed one behind the other, those with a single one first.
        """
        self.masks.clear()
        self.pieces = None
        one = set(places)
        if counts is not None:
            singles = sum(count == 1 for count in counts)
            self.pieces = _pieces(places[singles:], counts[singles:], singles)
            places = places[:singles]
        self.front = max(places, default=-1) + 1
        self.places = torch.tensor(places, device=device, dtype=torch.long) if max(one, default=-1) >= 0 else None
        self.seats = self._seated(places, device) if self.front else None
        self.only = next(iter(one)) if self.places is not None and len(one) == 1 else None

    def mask(self, rank: int, like: Tensor) -> Tensor:
        """Which ranks of a stack of this rank each row does not keep."""
        if rank not in self.masks:
            assert self.places is not None
            own = torch.arange(self.front, device=like.device).repeat_interleave(rank)
            self.masks[rank] = self.places[:, None] != own
        return self.masks[rank]

    def _seated(self, places: Sequence[int], device: torch.device) -> _Seats | None:
        by_place: list[list[int]] = [[] for _ in range(self.front)]
        for row, place in enumerate(places):
            if place >= 0:
                by_place[place].append(row)
        most = max(map(len, by_place))
        if self.front * most > _SEATS * len(places):
            return None
        rows = [row for own in by_place for row in (own + most * [0])[:most]]
        adapted = [row for own in by_place for row in own]
        seats = [place * most + k for place, own in enumerate(by_place) for k in range(len(own))]
        return _Seats(*(torch.tensor(values, device=device) for values in (rows, seats, adapted)))


class StackedLinear(nn.Module):
    """A linear layer plus what each row's adapter adds to it."""

    down: Tensor
    """[places, rank, in]."""
    up: Tensor
    """[places, rank, out]."""
    stretch: Tensor | None
    """[places, 1, out], once there is a DoRA adapter."""

    def __init__(self, base: nn.Linear, selection: Selection, places: int) -> None:
        super().__init__()
        self.base = base
        self.selection = selection
        like = base.weight
        self.register_buffer("down", like.new_zeros(places, 0, base.in_features), persistent=False)
        self.register_buffer("up", like.new_zeros(places, 0, base.out_features), persistent=False)
        self.register_buffer("stretch", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, tokens, in] to [rows, tokens, out], each row under its adapter; [1, tokens, in] if fed in pieces.

        Raises:
            ValueError: adapters are selected for another number of rows.
        """
        return self.added(x, self.base(x))

    def added(self, x: Tensor, y: Tensor) -> Tensor:
        """As `forward`, with what the base makes of `x`; where that is fed in pieces, it is changed in place."""
        selection = self.selection
        if selection.places is None:
            return y
        rows = len(selection.places) if selection.pieces is None else 1
        if x.shape[0] != rows:
            raise ValueError(f"rows: {rows} adapters are selected for a batch of {x.shape[0]}")
        if selection.pieces is not None:
            self._add_in_pieces(x[0], y[0], selection.pieces)
            return y
        if selection.only is not None:
            place = selection.only
            y = _added(y, nn.functional.linear(x, self.down[place]), self.up[place])
            return y if self.stretch is None else torch.addcmul(y, self._without_bias(y), self._stretch_of(place))
        y = self._adapted(x, y)
        return y if self.stretch is None else torch.addcmul(y, self._without_bias(y), self._stretches()[:, None])

    def _adapted(self, x: Tensor, y: Tensor) -> Tensor:
        """What the base makes of rows [rows, tokens, in], with what their adapters add."""
        seats = self.selection.seats
        if seats is None or (x.shape[1] == 1 and self._little(x)):
            hidden = nn.functional.linear(x, self._front(self.down))
            others = self.selection.mask(self.down.shape[1], x)[:, None]
            return _added(y, hidden.masked_fill(others, 0.0), self._front(self.up))
        return y.index_add(0, seats.adapted, self._seated(x, seats))

    def _add_in_pieces(self, x: Tensor, y: Tensor, pieces: Sequence[_Piece]) -> None:
        """Change `y` [tokens, out], which the base makes of `x` [tokens, in], in place."""
        selection = self.selection
        if selection.only is not None:
            self._add(selection.only, x, y)
            return
        if selection.front:
            own = slice(pieces[0].tokens.start if pieces else None)
            self._add_to_singles(x[own], y[own])
        for piece in pieces:
            if piece.place >= 0:
                self._add(piece.place, x[piece.tokens], y[piece.tokens])

    def _add(self, place: int, x: Tensor, y: Tensor) -> None:
        """What one adapter adds to tokens."""
        y.addmm_(nn.functional.linear(x, self.down[place]), self.up[place])
        if self.stretch is not None:
            y.addcmul_(self._without_bias(y), self._stretch_of(place))

    def _add_to_singles(self, x: Tensor, y: Tensor) -> None:
        """What the adapters add to tokens, a row each."""
        if self.selection.seats is None or self._little(x):
            hidden = nn.functional.linear(x, self._front(self.down))
            y.addmm_(hidden.masked_fill_(self.selection.mask(self.down.shape[1], x), 0.0), self._front(self.up))
        else:
            y.index_add_(0, self.selection.seats.adapted, self._seated(x, self.selection.seats))
        if self.stretch is not None:
            y.addcmul_(self._without_bias(y), self._stretches())

    def _seated(self, x: Tensor, seats: _Seats) -> Tensor:
        """What the adapters add to those rows that have one: x [rows, in] or [rows, tokens, in], each meets its own."""
        front = self.selection.front
        seated = x.index_select(0, seats.rows).view(front, -1, self.down.shape[2])
        added = torch.bmm(torch.bmm(seated, self.down[:front].transpose(1, 2)), self.up[:front])
        return added.view(len(seats.rows), *x.shape[1:-1], -1).index_select(0, seats.own)

    def _little(self, x: Tensor) -> bool:
        """Of single tokens: so little to compute that seating takes longer."""
        return x.dtype.itemsize == 2 and self.selection.front * self.down.shape[1] <= _RANKS

    def _front(self, stack: Tensor) -> Tensor:
        """The ranks of the adapters that a pass runs over [front x rank, in or out]."""
        return stack[: self.selection.front].flatten(0, 1)

    def _stretch_of(self, place: int) -> Tensor:
        assert self.stretch is not None
        return self.stretch[place]

    def _stretches(self) -> Tensor:
        """Of each row [rows, out]: 0 for those that have none."""
        places = self.selection.places
        assert places is not None
        assert self.stretch is not None
        # Added, not multiplied, so that the rows of other adapters stay as they are to the last bit.
        return self.stretch[places.clamp(min=0), 0] * (places >= 0)[:, None]

    def _without_bias(self, y: Tensor) -> Tensor:
        return y if self.base.bias is None else y - self.base.bias

    def resize(self, places: int, rank: int) -> None:
        """Make room for so many adapters of at most this rank."""
        if (places, rank) == tuple(self.down.shape[:2]):
            return
        self.down, self.up = _grown(self.down, places, rank), _grown(self.up, places, rank)
        if self.stretch is not None:
            self.stretch = _grown(self.stretch, places, 1)

    def put(self, place: int, added: Added | None) -> None:
        """Fill a place; None: its adapter leaves this layer as it is."""
        self.down[place], self.up[place] = 0, 0
        if self.stretch is not None:
            self.stretch[place] = 0
        if added is None:
            return
        rank = added.down.shape[0]
        self.resize(self.down.shape[0], max(rank, self.down.shape[1]))
        self.down[place, :rank], self.up[place, :rank] = added.down, added.up
        if added.stretch is not None:
            if self.stretch is None:
                self.stretch = self.up.new_zeros(self.up.shape[0], 1, self.up.shape[2])
            self.stretch[place, 0] = added.stretch

    def swap(self, a: int, b: int) -> None:
        """Let two places change their contents."""
        for stack in (self.down, self.up, self.stretch):
            if stack is not None:
                stack[[a, b]] = stack[[b, a]]


def _pieces(places: Sequence[int], counts: Sequence[int], first: int) -> tuple[_Piece, ...]:
    """Those of one adapter that are next to each other are one; the last has what pads the batch, too."""
    found: list[_Piece] = []
    for place, count in zip(places, counts, strict=True):
        if found and found[-1].place == place:
            found[-1] = _Piece(slice(found[-1].tokens.start, first + count), place)
        else:
            found.append(_Piece(slice(first, first + count), place))
        first += count
    if found:
        found[-1] = _Piece(slice(found[-1].tokens.start, None), found[-1].place)
    return tuple(found)


def _added(y: Tensor, hidden: Tensor, up: Tensor) -> Tensor:
    """`y + hidden @ up` in one pass: [rows, tokens, out] and [rows, tokens, ranks] with [ranks, out]."""
    return torch.addmm(y.flatten(0, 1), hidden.flatten(0, 1), up).view_as(y)


def _grown(stack: Tensor, places: int, rank: int) -> Tensor:
    larger = stack.new_zeros(places, rank, stack.shape[2])
    larger[: stack.shape[0], : stack.shape[1]] = stack
    return larger
