"""How many calls a server takes at once, where it says so by slowing down only.

A server of one's own (vLLM, for example) never answers 429: past its capacity calls queue inside it, latency grows and
nothing is gained. The number of calls under way follows the gradient of latency, as in Netflix's concurrency-limits
(Gradient2): it grows while short-term latency stays near the long-term one, and shrinks as they part.
"""

import math
from dataclasses import dataclass

__all__ = ["Concurrency"]

_TOLERANCE = 1.6
"""Latency may differ so much by chance before it counts."""
_SMOOTHING = 0.5
_FORGET = 1.002
"""A round: the latency without a queue is not the same for ever."""
_LOOK_EVERY = 100
"""Rounds after which half as many calls show for one round what the latency is without a queue."""


@dataclass(slots=True)
class Concurrency:
    """A worker's number of calls under way, between a few and `most`."""

    most: int
    limit: float = 0.0
    least: int = 4
    _best: float = math.inf
    """Seconds that a call takes when none queues, as far as is known."""
    _sum: float = 0.0
    _count: int = 0
    _rounds: int = 0
    _queued: bool = False
    _back_to: float = 0.0
    """The limit to return to after a look; 0: not looking."""

    def __post_init__(self) -> None:
        self.limit = float(self.most)

    def answered(self, seconds: float, under_way: int) -> None:
        """Take in how long a call took; the limit moves once for each round of calls."""
        self._sum, self._count = self._sum + seconds, self._count + 1
        if self._count < max(8, under_way):
            return
        mean, self._sum, self._count = self._sum / self._count, 0.0, 0
        self._rounds += 1
        self._best = min(mean, self._best * _FORGET)
        if self._back_to:
            self.limit, self._back_to = self._back_to, 0.0
        elif self._queued and self._rounds % _LOOK_EVERY == 0:
            self._back_to, self.limit = self.limit, max(self.limit / 2, 1.0)
        elif under_way >= self.limit / 2:  # fewer calls tell nothing about the limit
            self._follow(min(1.0, _TOLERANCE * self._best / mean))

    def _follow(self, gradient: float) -> None:
        self._queued = self._queued or gradient < 1
        aimed = self.limit * max(0.5, gradient) + math.sqrt(self.limit)
        moved = (1 - _SMOOTHING) * self.limit + _SMOOTHING * aimed
        self.limit = max(float(min(self.least, self.most)), min(float(self.most), moved))
