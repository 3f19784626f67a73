"""Tokenised rows: what a plan asks of them is known in every process, their ids stay where they were made.

A row's ids are read from its block when its turn comes. Blocks that lie in Ray's object store come from whatever node
has them while the step before is computed, and are let go after their own: Ray keeps what its memory has no room for
on disk.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from cp_ray.branches import Branches

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy as np
    import ray

__all__ = ["Blocks", "Held", "Row", "Rows", "Stored", "Tokenised", "heads"]


@dataclass(frozen=True, slots=True)
class Tokenised:
    """A prompt in token ids, with all of its answers or some."""

    index: int
    """Of the prompt, among all of the run."""
    part: int
    """Which of the prompt's rows."""
    stem: int
    """The first prompt, by its index, of those that begin like this one."""
    adapter: int
    validation: bool
    """Kept to validate with."""
    shares: bool
    """Its answers are options of a survey question, and their weights a distribution."""
    tokens: int
    """To be computed."""
    weight: float
    """The examples it stands for: the sum of its weights."""
    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    weights: tuple[float, ...]
    """One an answer."""


_IDS = ("prompt", "answers", "weights")


def heads(block: pa.Table, number: int) -> pa.Table:
    """What is known of each row of a block of `Tokenised` without its ids, and where these lie: `block`, `line`."""
    lines = block.drop_columns(list(_IDS)).append_column("block", pa.repeat(number, block.num_rows))
    return lines.append_column("line", pa.array(range(block.num_rows)))


class Blocks(Protocol):
    """Tables of `Tokenised`, wherever they lie."""

    def __getitem__(self, number: int, /) -> pa.Table:
        """A block."""
        ...

    def expect(self, numbers: Iterable[int]) -> None:
        """These will be asked for next."""
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """Blocks in this process."""

    tables: Sequence[pa.Table]

    def __getitem__(self, number: int) -> pa.Table:
        """A block."""
        return self.tables[number]

    def expect(self, numbers: Iterable[int]) -> None:
        """They are here."""


@dataclass(slots=True)
class Stored:
    """Blocks in Ray's object store."""

    refs: "Sequence[ray.ObjectRef[pa.Table]]"
    coming: "dict[int, Future[pa.Table]]" = field(default_factory=dict)
    """What is expected, and kept here until something else is."""

    def __getitem__(self, number: int) -> pa.Table:
        """A block, once it is here."""
        import ray

        coming = self.coming.get(number)
        return ray.get(self.refs[number]) if coming is None else coming.result()

    def expect(self, numbers: Iterable[int]) -> None:
        """Fetch these, and let all others go."""
        self.coming = {k: self.coming.get(k) or self.refs[k].future() for k in set(numbers)}


@dataclass(frozen=True, slots=True)
class Row:
    """One of many."""

    rows: "Rows"
    index: int

    @property
    def adapter(self) -> int:
        """Whose it is."""
        return int(self.rows.adapters[self.index])

    @property
    def tokens(self) -> int:
        """To be computed."""
        return int(self.rows.tokens[self.index])

    @property
    def weight(self) -> float:
        """The examples it stands for."""
        return float(self.rows.column("weight")[self.index])

    @property
    def shares(self) -> bool:
        """Its answers are options of a survey question, and their weights a distribution."""
        return bool(self.rows.column("shares")[self.index])

    @property
    def branches(self) -> Branches:
        """Its ids."""
        block = self.rows.blocks[self.rows.block(self.index)]
        (line,) = block.slice(int(self.rows.column("line")[self.index]), 1).select(list(_IDS)).to_pylist()
        answers = tuple(tuple(answer) for answer in line["answers"])
        return Branches(tuple(line["prompt"]), answers, tuple(line["weights"]))


class Rows(Sequence[Row]):
    """Rows in an order of their own."""

    def __init__(self, known: pa.Table, blocks: Blocks) -> None:
        """Of some blocks.

        Args:
            known: lines of their `heads`.
            blocks: with their ids.
        """
        self.known, self.blocks = known, blocks

    def __len__(self) -> int:
        return int(self.known.num_rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [Row(self, k) for k in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Row(self, index)

    def __iter__(self) -> Iterator[Row]:
        return (Row(self, k) for k in range(len(self)))

    @property
    def adapters(self) -> "np.ndarray[Any, Any]":
        """Of each row."""
        return self.column("adapter")

    @property
    def tokens(self) -> "np.ndarray[Any, Any]":
        """Of each row, to be computed."""
        return self.column("tokens")

    def block(self, index: int) -> int:
        """Where a row's ids lie."""
        return int(self.column("block")[index])

    def column(self, name: str) -> "np.ndarray[Any, Any]":
        """What is known of each row under this name."""
        return self._columns[name]

    def expect(self, indices: Iterable[int]) -> None:
        """The ids of these rows will be asked for next."""
        self.blocks.expect({self.block(index) for index in indices})

    @functools.cached_property
    def _columns(self) -> "dict[str, np.ndarray[Any, Any]]":
        return {name: self.known[name].to_numpy() for name in self.known.column_names}
