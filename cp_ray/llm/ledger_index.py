"""Where each of a ledger's answers lies: a million of them in 25 MB, found without reading their texts.

A line begins with its key, so the place of every key is found by looking for line ends.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from cp_ray.errors import RunFolderError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Index"]

_CHUNK = 16 * 2**20
_MOST_OPEN = 256
"""Files at once: every writer of a run's life leaves one, and a process may have only so many open."""
_BEGINNING = b'{"key": "'
_COUNT = b'{"failed"'
_DIGITS = 16
"""Hex digits of a key that are kept: enough to tell a billion apart; the line has the rest."""


class Index:
    """Finds lines by key: those of the files that it is made from, and those added since."""

    def __init__(self, files: Iterable[tuple[str, Callable[[], Any]]]) -> None:
        """Read where the lines of `files` (name, what opens it as a binary file) lie.

        Raises:
            RunFolderError: a line is not an answer's. A last line without an end is torn, and passed over.
        """
        import numpy as np

        self._files: list[tuple[str, Callable[[], Any]]] = []
        self._open: dict[int, Any] = {}
        keys, places, lengths, owners = [], [], [], []
        for number, (name, opens) in enumerate(files):
            self._files.append((name, opens))
            for some_keys, some_places, some_lengths in _scan(name, self._opened(number)):
                keys.append(some_keys)
                places.append(some_places)
                lengths.append(some_lengths)
                owners.append(np.full(len(some_keys), number, np.uint32))
        none = [np.zeros(0, np.uint64)]
        all_keys = np.concatenate(keys or none)
        order = np.argsort(all_keys, kind="stable")
        self._keys = all_keys[order]
        self._places = np.concatenate(places or none)[order]
        self._lengths = np.concatenate(lengths or none)[order]
        self._owners = np.concatenate(owners or none)[order]
        self._added: dict[str, tuple[int, int, int]] = {}

    def __len__(self) -> int:
        return len(self._keys) + len(self._added)

    def add(self, key: str, descriptor: int, place: int, length: int) -> None:
        """A line that was written since."""
        self._added[key] = (descriptor, place, length)

    def find(self, key: str) -> dict[str, Any] | None:
        """The line under a key, parsed; None if there is none.

        Raises:
            RunFolderError: the line is damaged.
        """
        if key in self._added:
            descriptor, place, length = self._added[key]
            return _parse("ledger", os.pread(descriptor, length, place), place)
        wanted = int(key[:_DIGITS], 16)
        at = int(self._keys.searchsorted(self._keys.dtype.type(wanted)))
        while at < len(self._keys) and int(self._keys[at]) == wanted:
            number, place = int(self._owners[at]), int(self._places[at])
            line = os.pread(self._opened(number).fileno(), int(self._lengths[at]), place)
            found = _parse(self._files[number][0], line, place)
            if found["key"] == key:
                return found
            at += 1
        return None

    def close(self) -> None:
        """Close the files."""
        for file in self._open.values():
            file.close()

    def _opened(self, number: int) -> Any:
        """A file; the one used longest ago is closed for it where there are many."""
        file = self._open.pop(number, None) or self._files[number][1]()
        self._open[number] = file  # behind all others
        if len(self._open) > _MOST_OPEN:
            self._open.pop(next(iter(self._open))).close()
        return file


def _scan(name: str, file: Any) -> "Iterator[tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32]]]":
    """Keys, places and lengths of a file's whole lines, some at a time."""
    import numpy as np

    place, rest, beginning = 0, b"", np.frombuffer(_BEGINNING, np.uint8)
    while True:
        read = os.pread(file.fileno(), _CHUNK, place + len(rest))
        if not read:
            return
        data = np.frombuffer(rest + read, np.uint8)
        ends = np.flatnonzero(data == ord("\n"))
        if len(ends):
            starts = np.concatenate([[0], ends[:-1] + 1])
            lengths = (ends + 1 - starts).astype(np.uint32)
            wide = lengths >= len(_BEGINNING) + _DIGITS
            first = data[np.where(wide, starts, 0)[:, None] + np.arange(len(_BEGINNING))]
            answers = wide & (first == beginning).all(axis=1)
            _check_others(name, data, starts[~answers], lengths[~answers], place)
            starts, lengths = starts[answers], lengths[answers]
            yield _keys(data, starts + len(_BEGINNING)), (starts + place).astype(np.uint64), lengths
            whole = int(ends[-1]) + 1
        else:
            whole = 0
        rest = data[whole:].tobytes()
        place += whole


def _keys(data: "NDArray[np.uint8]", starts: "NDArray[Any]") -> "NDArray[np.uint64]":
    import numpy as np

    value_of = np.zeros(256, np.uint64)
    for value, digit in enumerate(b"0123456789abcdef"):
        value_of[digit] = value
    keys = np.zeros(len(starts), np.uint64)
    for k in range(_DIGITS):
        keys = (keys << np.uint64(4)) | value_of[data[starts + k]]
    return keys


def _check_others(name: str, data: "NDArray[np.uint8]", starts: Any, lengths: Any, place: int) -> None:
    """What is no answer must be a count of failures."""
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        line = data[start : start + length].tobytes()
        if not line.startswith(_COUNT):
            raise RunFolderError(
                f"root: {name} is damaged at byte {place + start} ({line[:40]!r}); remove that line to pay for it again"
            )


def _parse(name: str, line: bytes, place: int) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise RunFolderError(
            f"root: {name} is damaged at byte {place} ({error}); remove that line to pay for it again"
        ) from error
    return found
