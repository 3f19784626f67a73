"""One limit of requests and tokens for the whole cluster, whatever the number of workers.

A named actor holds the schedule. A worker asks for all its waiting calls at once and is told when each may go, so the
actor's load grows with workers and not with calls.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cp_ray.errors import ConfigError

__all__ = ["Limits", "Schedule", "SharedLimiter"]


_REQUESTS, _TOKENS = 0, 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What a provider allows a minute; None is no limit."""

    rpm: int | None = None
    tpm: int | None = None

    def __post_init__(self) -> None:
        for name in ("rpm", "tpm"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: must be at least 1, got {value}")

    @property
    def any(self) -> bool:
        """Is there a limit at all?"""
        return self.rpm is not None or self.tpm is not None


class Schedule:
    """When calls may go, so that no second sees more than its share; in the order asked.

    For each of requests and tokens it keeps the time at which the allowance would be used up if calls went on evenly
    (the generic cell rate algorithm), and lets them run ahead of it by `burst_s` at most.
    """

    def __init__(self, limits: Limits, *, burst_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._rates = [limit / 60 for limit in (limits.rpm, limits.tpm) if limit is not None]
        self._kinds = [kind for kind, limit in enumerate((limits.rpm, limits.tpm)) if limit is not None]
        self._burst_s, self._clock = burst_s, clock
        # Starting with a spent allowance: after a restart there is no burst on top of what went before.
        self._used_up = [clock() + burst_s for _ in self._rates]
        self._paused_until = clock()

    def reserve(self, tokens: Sequence[int], refund: int = 0) -> list[float]:
        """Seconds from now at which calls of so many tokens may go, one each.

        `refund` gives back tokens that were reserved before and not used; negative: more were used.
        """
        now, delays = self._clock(), []
        self._refund(refund)
        for count in tokens:
            start = max([now, self._paused_until, *(used_up - self._burst_s for used_up in self._used_up)])
            for k, (rate, kind) in enumerate(zip(self._rates, self._kinds, strict=True)):
                self._used_up[k] = max(self._used_up[k], start) + (1 if kind == _REQUESTS else count) / rate
            delays.append(start - now)
        return delays

    def _refund(self, tokens: int) -> None:
        for k, (rate, kind) in enumerate(zip(self._rates, self._kinds, strict=True)):
            if kind == _TOKENS:
                self._used_up[k] -= tokens / rate

    def pause(self, seconds: float) -> None:
        """Let nothing start for so long; the provider has said 429."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)


class SharedLimiter:
    """A worker's end of the cluster's limit for one endpoint."""

    def __init__(self, limits: Limits, endpoint: str) -> None:
        import ray

        name = f"cp_ray-limiter-{endpoint}-{limits.rpm}-{limits.tpm}"
        self._actor: Any = (
            ray.remote(num_cpus=0, max_restarts=-1)(Schedule)
            .options(name=name, namespace="cp_ray", get_if_exists=True)
            .remote(limits)
        )
        self._waiting: list[tuple[int, asyncio.Future[float]]] = []
        self._asking: asyncio.Task[None] | None = None
        self._unused = 0

    async def acquire(self, tokens: int) -> None:
        """Wait until a call of so many tokens may go."""
        turn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append((tokens, turn))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        await asyncio.sleep(await turn)

    def settle(self, estimated: int, used: int) -> None:
        """Correct an estimate by what was used; told with the next question."""
        self._unused += estimated - used

    def pause(self, seconds: float) -> None:
        """Hold everybody back."""
        self._actor.pause.remote(seconds)

    async def _ask(self) -> None:
        """Ask for all who wait, until nobody does; those who come meanwhile share the next question."""
        while self._waiting:
            asked, self._waiting = self._waiting, []
            unused, self._unused = self._unused, 0
            try:
                delays = await self._actor.reserve.remote([tokens for tokens, _ in asked], unused)
            except BaseException as error:
                for _, turn in asked:
                    if not turn.done():
                        turn.set_exception(error)
                raise
            for (_, turn), delay in zip(asked, delays, strict=True):
                if not turn.done():
                    turn.set_result(delay)
