"""Whose chats compute in a step: a tenant that asks for little is not made to wait by one that asks for much."""

from collections.abc import Iterable, Mapping
from typing import Protocol

__all__ = ["HELD_STEPS", "Turns"]

HELD_STEPS = 64
"""Steps that a chat is held back at most, unless its answer is shorter, or longer already: then as many as that has."""
_SHARED_STEPS = 10_000
"""Steps for which it is remembered that there was more than one tenant."""
_NEWEST, _FORGOTTEN, _ABOUT = 1 / 256, 0.01, 1.5
"""Share of the newest step in averages of chats; an average that is none; how much larger one may be to be alike."""


class Held(Protocol):
    """A chat that may be held back."""

    passed: int
    """Steps in which it was not computed and another was."""

    @property
    def tenant(self) -> str:
        """Whose it is."""
        ...

    @property
    def due(self) -> bool:
        """Whether it was held back long enough."""
        ...


class Turns:
    """The tenant that had the fewest chats of late is first, with those who had about as many.

    A batch costs little more than a chat, but it does cost: one that asks for little is answered as if it were alone,
    as long as the chats of the others have not been held back for as long as they take themselves.
    """

    def __init__(self) -> None:
        self._first: set[str] = set()
        self._alone = _SHARED_STEPS
        self._chats: dict[str, float] = {}
        """Of each tenant, on an average that fades: one that has a few at once now and then does not flood."""

    @property
    def shared(self) -> bool:
        """Whether there was more than one tenant of late."""
        return self._alone < _SHARED_STEPS

    def begin(self, chats: Mapping[str, int]) -> None:
        """A step begins.

        Args:
            chats: how many each tenant has, being answered or waiting.
        """
        self._alone = 0 if len(chats) > 1 else self._alone + 1
        of_late = {t: n + (chats.get(t, 0) - n) * _NEWEST for t, n in self._chats.items()}
        self._chats = {t: n for t, n in of_late.items() if t in chats or n > _FORGOTTEN}
        self._chats |= {t: n * _NEWEST for t, n in chats.items() if t not in self._chats}
        fewest = min((self._chats[tenant] for tenant in chats), default=0.0)
        self._first = {tenant for tenant in chats if self._chats[tenant] <= _ABOUT * fewest}

    def all_go(self, tenants: Iterable[str]) -> None:
        """Nobody who is first has anything that can be computed: these go on."""
        self._first = set(tenants)

    def leads(self, chat: Held) -> bool:
        """Whether a chat's tenant is first in this step."""
        return chat.tenant in self._first

    def goes(self, chat: Held) -> bool:
        """Whether a chat computes in this step."""
        return chat.due or self.leads(chat)

    def end(self, chats: Iterable[Held]) -> None:
        """The step is over."""
        for chat in chats:
            if not self.goes(chat):
                chat.passed += 1
