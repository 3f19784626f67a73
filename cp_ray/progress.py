"""How far a step is: workers count, the driver shows.

One `Progress` handle travels to the workers of a step. On a terminal the driver rewrites one line a second; in a log
it writes a plain line now and then.
"""

import contextlib
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from cp_ray.actors import beside

__all__ = ["Progress", "Tally", "watched"]

_FLUSH_S = 0.5
"""A worker tells of what it counted no oftener than this."""

_PLAIN_S = 15.0
"""Seconds between lines in a log."""

_RECENT_S = 60.0

ALLOWED = "calls/s allowed"

View = tuple[int, int | None, dict[str, float], dict[str, float]]
"""Done, total, sums by name, latest values by name."""


class Tally:
    """What has been counted; lives in an actor, plain enough to be tested without Ray."""

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.done = 0
        self.sums: dict[str, float] = {}
        self.latest: dict[str, float] = {}

    def add(self, done: int, sums: dict[str, float], latest: dict[str, float]) -> None:
        """Count `done` more units, and whatever else by name."""
        self.done += done
        self.latest.update(latest)
        for name, amount in sums.items():
            self.sums[name] = self.sums.get(name, 0) + amount

    def step(self, done: int, total: int, latest: dict[str, float]) -> None:
        """Be at `done` of `total`, with the latest values by name."""
        self.done, self.total, self.latest = done, total, latest

    def view(self) -> View:
        """Done, total, sums, latest values."""
        return self.done, self.total, dict(self.sums), dict(self.latest)


@dataclass
class Progress:
    """A worker's end: cheap to call, tells the actor now and then."""

    actor: Any
    _done: int = 0
    allowed_per_s: float = math.inf
    """Calls a second that the limits allow the whole cluster."""
    _sums: dict[str, float] = field(default_factory=dict)
    _told: float = 0.0

    def add(self, done: int = 0, **sums: float) -> None:
        """Count units of work, and calls, tokens and the like by name."""
        self._done += done
        for name, amount in sums.items():
            self._sums[name] = self._sums.get(name, 0) + amount
        if time.monotonic() - self._told >= _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Tell what has been counted since the last time."""
        latest = {ALLOWED: self.allowed_per_s} if math.isfinite(self.allowed_per_s) else {}
        self.actor.add.remote(self._done, self._sums, latest)
        self._done, self._sums, self._told = 0, {}, time.monotonic()

    def step(self, done: int, total: int, **latest: float) -> None:
        """Be at `done` of `total`."""
        if done == total or time.monotonic() - self._told >= _FLUSH_S:
            self.actor.step.remote(done, total, latest)
            self._told = time.monotonic()


@contextlib.contextmanager
def watched(
    label: str, *, total: int | None = None, unit: str = "rows", out: TextIO = sys.stderr
) -> Iterator[Progress]:
    """Show a step's progress while inside; gives the handle for its workers."""
    import ray

    actor: Any = beside(Tally).remote(total)
    stop = threading.Event()
    thread = threading.Thread(target=_show, args=(actor, label, unit, stop, out), daemon=True)
    thread.start()
    try:
        yield Progress(actor)
    finally:
        stop.set()
        thread.join()
        ray.kill(actor)


def line(label: str, unit: str, view: View, left_s: float | None, rate: float | None) -> str:
    """One line on how far it is, with the rate of calls and the time that is left when these can be told."""
    done, total, sums, latest = view
    parts = [f"{label}: {done}/{total if total is not None else '?'} {unit}"]
    parts += [_amount(name, n) for name, n in sums.items() if n]
    parts += [f"{name} {value:.3f}" for name, value in latest.items() if name != ALLOWED]
    if rate is not None:
        allowed = f" of {latest[ALLOWED]:.1f}" if ALLOWED in latest else ""
        parts.append(f"{rate:.1f}{allowed} calls/s")
    if left_s is not None:
        parts.append(f"{int(left_s // 60)}:{int(left_s % 60):02d} left")
    return ", ".join(parts)


def _amount(name: str, n: float) -> str:
    return f"{n:.4f} USD" if name == "usd" else f"{n:,.0f} {name}"


class Pace:
    """How fast it goes, over the last minute: what was replayed at the start tells nothing about the rest."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.seen: deque[tuple[float, View]] = deque()

    def see(self, view: View) -> None:
        now = self.clock()
        self.seen.append((now, view))
        while now - self.seen[0][0] > _RECENT_S and len(self.seen) > 2:
            self.seen.popleft()

    def left_s(self) -> float | None:
        (began, (before, *_)), (now, (done, total, *_)) = self.seen[0], self.seen[-1]
        if not total or not 0 < done < total or done == before:
            return None
        return (now - began) / (done - before) * (total - done)

    def calls_per_s(self) -> float | None:
        """None where no calls are made."""
        (began, before), (now, after) = self.seen[0], self.seen[-1]
        made = after[2].get("calls", 0) - before[2].get("calls", 0)
        return made / (now - began) if made and now > began else None


def _show(actor: Any, label: str, unit: str, stop: threading.Event, out: TextIO) -> None:
    import ray

    terminal, said, pace = out.isatty(), time.monotonic(), Pace()
    while not stop.wait(1.0):
        if not terminal and time.monotonic() - said < _PLAIN_S:
            continue
        view = ray.get(actor.view.remote())
        pace.see(view)
        text = line(label, unit, view, pace.left_s(), pace.calls_per_s())
        out.write(f"\r\x1b[K    {text}" if terminal else f"    {text}\n")
        out.flush()
        said = time.monotonic()
    if terminal:
        out.write("\r\x1b[K")
        out.flush()
