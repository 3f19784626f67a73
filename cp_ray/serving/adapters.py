"""The adapters that an engine knows: all of them on disk, those used last on the base."""

import contextlib
import ctypes
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cp_ray.lora import StackedLora
from cp_ray.peft_folder import Added
from cp_ray.serving.chat import BadRequest

__all__ = ["Adapters", "Fetched"]


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Fetched:
    """An adapter that has been read and is not on the base; it lives as long as a request waits for it."""

    matrices: Mapping[str, Added]


class Adapters:
    """Brings adapters onto the base as they are asked for.

    `fetch`, `know` and `forget` may be called by any thread, the rest by the one that runs the model.
    """

    def __init__(self, model: Any, folders: Mapping[str, Path | None], most: int) -> None:
        """Put the first ones on the base.

        Args:
            model: the base.
            folders: PEFT folders by the model name that requests use; None is the bare base.
            most: adapters on the base at once.

        Raises:
            BaseModelError: one of those that are put on it does not fit.
        """
        self._folders = dict(folders)
        self._most = most
        first = {name: folder for name, folder in folders.items() if folder is not None}
        first = dict(list(first.items())[:most])
        self._lora = StackedLora(model, first)
        self._used = OrderedDict.fromkeys(first)
        self._fetched: weakref.WeakValueDictionary[str, Fetched] = weakref.WeakValueDictionary()
        self._reading = threading.Lock()

    @property
    def loaded(self) -> tuple[str, ...]:
        """The adapters on the base, the one used longest ago first."""
        return tuple(self._used)

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return self._lora.nbytes

    def knows(self, name: str) -> bool:
        """Whether requests may ask for it."""
        return name in self._folders

    def know(self, name: str, folder: Path | None) -> None:
        """Requests may ask for one more."""
        self._folders[name] = folder

    def forget(self, name: str) -> Path | None:
        """Requests may not ask for it any more, and it leaves the base when its place is needed: its folder."""
        return self._folders.pop(name, None)

    def fetch(self, name: str) -> Fetched | None:
        """Its matrices, if it is not on the base; all who wait for them share them.

        Raises:
            BadRequest: it is not known.
            BaseModelError: it does not fit the base.
        """
        if name not in self._folders:
            raise BadRequest(f"model: {name!r} is not served; known: {', '.join(self._folders)}")
        folder = self._folders[name]
        if folder is None or name in self._used:
            return None
        with self._reading:
            fetched = self._fetched.get(name) or Fetched(self._lora.read(name, folder))
            self._fetched[name] = fetched
        return fetched

    def make_room(self, name: str, fetched: Fetched | None, in_use: set[str]) -> bool:
        """Bring an adapter onto the base; False if all places are in use.

        Args:
            name: the model's.
            fetched: from `fetch`; read now if the adapter has left since.
            in_use: models whose adapters have to stay.
        """
        if name in self._used:
            self._used.move_to_end(name)
            return True
        if name not in self._folders and fetched is None:
            return False  # it was forgotten; whoever waits for it has left
        folder = self._folders.get(name)
        if folder is None and fetched is None:
            return True
        if len(self._used) >= self._most:
            idle = next((other for other in self._used if other not in in_use), None)
            if idle is None:
                return False
            self._lora.remove(idle)
            del self._used[idle]
        if fetched is None:
            assert folder is not None
            fetched = Fetched(self._lora.read(name, folder))
        self._lora.add(name, fetched.matrices)
        self._used[name] = None
        _give_back()
        return True

    def rows(self, names: Sequence[str], counts: Sequence[int]) -> AbstractContextManager[None]:
        """Select adapters for the forward passes inside, by the models' names.

        Args:
            names: of the rows, which are fed one behind the other.
            counts: tokens of each.

        Raises:
            KeyError: one is neither the bare base nor on it; the base never answers in an adapter's place.
        """
        return self._lora.rows([None if self._folders.get(name, name) is None else name for name in names], counts)


def _give_back() -> None:
    """Let the system have what reading and growing left free, in 10 ms.

    glibc keeps it, in pieces too small for the next, larger stacks: 15 % of the adapters' size with 50 of them.
    """
    with contextlib.suppress(AttributeError):  # not every libc has it
        ctypes.CDLL(None).malloc_trim(0)
