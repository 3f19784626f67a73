"""How far a step is: workers count, the driver shows.

One `Progress` handle travels to the workers of a step. On a terminal the driver rewrites one line a second; in a log
it writes a plain line now and then.
"""

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

__all__ = ["Progress", "Tally", "watched"]

_FLUSH_S = 0.5
"""A worker tells of what it counted no oftener than this."""

_PLAIN_S = 15.0
"""Seconds between lines in a log."""


class Tally:
    """What has been counted; lives in an actor, plain enough to be tested without Ray."""

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.done = 0
        self.sums: Counter[str] = Counter()
        self.latest: dict[str, float] = {}

    def add(self, done: int, sums: dict[str, int]) -> None:
        """Count `done` more units, and whatever else by name."""
        self.done += done
        self.sums.update(sums)

    def step(self, done: int, total: int, latest: dict[str, float]) -> None:
        """Be at `done` of `total`, with the latest values by name."""
        self.done, self.total, self.latest = done, total, latest

    def view(self) -> tuple[int, int | None, dict[str, int], dict[str, float]]:
        """Done, total, sums, latest values."""
        return self.done, self.total, dict(self.sums), dict(self.latest)


@dataclass
class Progress:
    """A worker's end: cheap to call, tells the actor now and then."""

    actor: Any
    _done: int = 0
    _sums: "Counter[str] | None" = None
    _told: float = 0.0

    def add(self, done: int = 0, **sums: int) -> None:
        """Count units of work, and calls, tokens and the like by name."""
        self._done += done
        self._sums = Counter(sums) + (self._sums or Counter())
        if time.monotonic() - self._told >= _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Tell what has been counted since the last time."""
        self.actor.add.remote(self._done, dict(self._sums or {}))
        self._done, self._sums, self._told = 0, None, time.monotonic()

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

    actor: Any = ray.remote(num_cpus=0)(Tally).remote(total)
    stop = threading.Event()
    thread = threading.Thread(target=_show, args=(actor, label, unit, stop, out), daemon=True)
    thread.start()
    try:
        yield Progress(actor)
    finally:
        stop.set()
        thread.join()
        ray.kill(actor)


def line(label: str, unit: str, view: tuple[int, int | None, dict[str, int], dict[str, float]], seconds: float) -> str:
    """One line on how far it is, with the time that is left when that can be told."""
    done, total, sums, latest = view
    parts = [f"{label}: {done}/{total if total is not None else '?'} {unit}"]
    parts += [f"{n:,} {name}" for name, n in sums.items() if n]
    parts += [f"{name} {value:.3f}" for name, value in latest.items()]
    if total and 0 < done < total:
        left = seconds / done * (total - done)
        parts.append(f"{int(left // 60)}:{int(left % 60):02d} left")
    return ", ".join(parts)


def _show(actor: Any, label: str, unit: str, stop: threading.Event, out: TextIO) -> None:
    import ray

    terminal, began, said = out.isatty(), time.monotonic(), time.monotonic()
    while not stop.wait(1.0):
        if not terminal and time.monotonic() - said < _PLAIN_S:
            continue
        text = line(label, unit, ray.get(actor.view.remote()), time.monotonic() - began)
        out.write(f"\r\x1b[K    {text}" if terminal else f"    {text}\n")
        out.flush()
        said = time.monotonic()
    if terminal:
        out.write("\r\x1b[K")
        out.flush()
