"""How much may be under way, and how much each key may ask for: what does not fit is told when to come again."""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from cp_ray.serving.keys import Key

__all__ = ["Gate", "Refused"]

_MINUTE = 60.0
_MODEST_S = 10.0
"""A key that was not refused for so long does not flood."""
_WAIT_S = 1.0
"""Told to come again after so many seconds, where nothing says how long it will take."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that is too many."""

    message: str
    code: str
    retry_after_s: float

    @property
    def retry_after(self) -> str:
        """For the header: whole seconds."""
        return str(max(1, math.ceil(self.retry_after_s)))


class _Bucket:
    """A token bucket that holds a minute's worth and may go into debt."""

    def __init__(self, per_minute: int, now: float) -> None:
        self._rate, self._most = per_minute / _MINUTE, float(per_minute)
        self._left, self._at = self._most, now

    def wait_s(self, wanted: float, now: float) -> float:
        """Seconds until so much is there; 0 if it is."""
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, (min(wanted, self._most) - self._left) / self._rate)

    def take(self, amount: float) -> None:
        """Take so much, be it there or not."""
        self._left -= amount


class Gate:
    """Lets requests in. All of it belongs to one event loop.

    A request is let in while its key has any tokens left; what it really took is subtracted when it ends, so a long
    answer is paid for by those that follow.
    """

    def __init__(self, max_under_way: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Let in.

        Args:
            max_under_way: requests at once, answered or waiting, of all keys. A key that alone has more than its share
                (this number by the keys that have any) is refused first, so that a flood leaves room for others. One
                that was not refused of late may have twice its share, so that its own few at once are not refused
                because of another's flood.
            clock: seconds.
        """
        self._most, self._clock = max_under_way, clock
        self._under_way: Counter[str] = Counter()
        self._refused: dict[str, float] = {}
        """When each key was last refused for having too many."""
        self._requests: dict[str, _Bucket] = {}
        self._tokens: dict[str, _Bucket] = {}

    @property
    def under_way(self) -> int:
        """Requests that have been let in and have not ended."""
        return self._under_way.total()

    def enter(self, key: Key) -> Refused | None:
        """Let a request in, or say why not; one that is let in has to leave."""
        now = self._clock()
        refused = self._full(key, now) or self._too_often(key, now)
        if refused is None:
            self._under_way[key.name] += 1
        return refused

    def leave(self, key: Key, tokens: int) -> None:
        """It has ended and took so many tokens."""
        self._under_way[key.name] -= 1
        if not self._under_way[key.name]:
            del self._under_way[key.name]
        if key.name in self._tokens:
            self._tokens[key.name].wait_s(0, self._clock())
            self._tokens[key.name].take(tokens)

    def _full(self, key: Key, now: float) -> Refused | None:
        tenants = len(self._under_way.keys() | {key.name})
        # Up to a tenth of the room stays free for keys that have nothing under way yet.
        share = max(1, self._most // tenants - (self._most // 10 if tenants == 1 else 0))
        modest = self._refused.get(key.name, -_MODEST_S) <= now - _MODEST_S
        if modest and tenants > 1 and self.under_way < 2 * self._most:
            share *= 2
        if self._under_way[key.name] < share and self.under_way < 3 * self._most:
            return None
        self._refused[key.name] = now
        message = f"too many requests are under way ({self._under_way[key.name]} of this key); try again"
        return Refused(message, "overloaded", _WAIT_S)

    def _too_often(self, key: Key, now: float) -> Refused | None:
        if key.tokens_per_minute is not None:
            bucket = self._tokens.setdefault(key.name, _Bucket(key.tokens_per_minute, now))
            wait = bucket.wait_s(1, now)
            if wait > 0:
                message = f"this key's {key.tokens_per_minute} tokens per minute are used up"
                return Refused(message, "rate_limit_exceeded", wait)
        if key.requests_per_minute is not None:
            bucket = self._requests.setdefault(key.name, _Bucket(key.requests_per_minute, now))
            wait = bucket.wait_s(1, now)
            if wait > 0:
                message = f"this key's {key.requests_per_minute} requests per minute are used up"
                return Refused(message, "rate_limit_exceeded", wait)
            bucket.take(1)
        return None
