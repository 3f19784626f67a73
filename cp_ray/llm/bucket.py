"""A worker's end of the limiter: calls go at the rate of its lease."""

import math
import time
from dataclasses import dataclass

from cp_ray.llm.limiter import LEASE_S, WINDOW_S, Clock, Lease

__all__ = ["Bucket"]


@dataclass(slots=True)
class Bucket:
    """Lets a worker's calls go at the rate of its lease, evenly: credit grows with time and a call takes its part.

    Tokens may run into debt by one call, since a call may cost more than a bucket would ever hold.
    """

    clock: Clock = time.monotonic
    burst_s: float = 0.5
    """How far calls may catch up after the worker was late; providers' own buckets hold a second or more."""
    lease: Lease | None = None
    phase: float = 0.0
    """Credit for requests to begin with, at random below 1, or slow workers would all earn theirs at once."""
    _requests: float = 0.0
    _tokens: float = 0.0
    _at: float = 0.0
    _renewed: float = 0.0
    _paused_until: float = -math.inf

    def __post_init__(self) -> None:
        self._requests = self.phase

    def renew(self, lease: Lease) -> None:
        """Go on by another lease."""
        self._accrue()
        self.lease, self._renewed = lease, self.clock()
        if lease.pause_s:
            self.pause(lease.pause_s)

    def pause(self, seconds: float) -> None:
        """Let nothing go for so long."""
        self._paused_until = max(self._paused_until, self.clock() + seconds)

    def take(self, tokens: int) -> float:
        """0.0: a call of so many tokens may go now, and is counted. Otherwise seconds after which to try again."""
        self._accrue()
        lease, now = self.lease, self._at
        if lease is None:
            return WINDOW_S
        if now < self._paused_until:
            return self._paused_until - now
        wait = max(
            0.0 if math.isinf(lease.requests_per_s) else _until(1.0 - self._requests, lease.requests_per_s),
            0.0 if math.isinf(lease.tokens_per_s) else _until(-self._tokens, lease.tokens_per_s),
        )
        if wait > 0:
            return wait
        self._requests -= 1.0
        self._tokens -= tokens
        return 0.0

    def _accrue(self) -> None:
        now = self.clock()
        lease = self.lease
        if lease is not None:
            elapsed = max(0.0, min(now, self._renewed + LEASE_S) - self._at)
            self._requests = _filled(self._requests, lease.requests_per_s, elapsed, self.burst_s, least=1.0)
            self._tokens = _filled(self._tokens, lease.tokens_per_s, elapsed, self.burst_s, least=0.0)
        self._at = now


def _filled(credit: float, rate: float, elapsed: float, burst_s: float, *, least: float) -> float:
    if math.isinf(rate):
        return least
    return min(credit + rate * elapsed, max(least, rate * burst_s))


def _until(missing: float, rate: float) -> float:
    """Seconds until so much has been earned; with next to no rate, a while to look again."""
    if missing <= 1e-9:
        return 0.0
    return min(missing / rate, WINDOW_S) if rate > 0 else WINDOW_S
