"""Whose chats compute in a step: a tenant that asks for little is not made to wait by one that asks for much."""

import time
from collections.abc import Callable, Mapping

__all__ = ["Turns"]

_CREDIT_S = 5.0
"""Of the engine's time that a tenant may be behind the one that was given most; more is forgotten."""


class Turns:
    """Fair shares of the engine's time, step by step.

    The tenant that was given the least time is first. Those with about as many chats compute beside it, since a batch
    costs little more than one chat; one with clearly more waits. So a tenant that needs no more than its share of the
    time is answered as if it were alone, and one that needs more shares steps with the others.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock`: seconds."""
        self._clock = clock
        self._given: dict[str, float] = {}
        self._began = 0.0

    @property
    def shared(self) -> bool:
        """Whether there was more than one tenant of late."""
        return len(self._given) > 1

    def first(self, chats: Mapping[str, int]) -> set[str]:
        """Those who compute in the step that begins now.

        Args:
            chats: how many each tenant has, being answered or waiting.
        """
        self._began = self._clock()
        if len(chats) < 2:
            return set(chats)
        least = max(self._given.values(), default=0.0) - _CREDIT_S
        # Who has been away for longer than its credit lasts is as good as new.
        self._given = {t: s for t, s in self._given.items() if t in chats or s > least}
        self._given |= {t: max(least, self._given.get(t, least)) for t in chats}
        leader = min(chats, key=lambda tenant: (self._given[tenant], chats[tenant]))
        return {tenant for tenant, count in chats.items() if tenant == leader or 2 * count < 3 * chats[leader]}

    def charge(self, tokens: Mapping[str, int]) -> None:
        """The step is over: each tenant had so many of its tokens."""
        total, seconds = sum(tokens.values()), self._clock() - self._began
        for tenant, count in tokens.items():
            self._given[tenant] = self._given.get(tenant, 0.0) + seconds * count / total
