"""What a batch endpoint needs of a provider, and how its control calls are tried again."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from cp_ray.errors import TeacherDenied, TeacherUnknownModel, TeacherUnreachable
from cp_ray.llm.call import Completion, Sampling, Usage
from cp_ray.records import Message

__all__ = [
    "Again",
    "BatchProvider",
    "Candidate",
    "Refused",
    "Results",
    "Transient",
    "denied",
    "gave_up",
    "no_answer",
    "passes",
    "patiently",
    "pause",
    "told_to_wait",
    "unknown_model",
]

T = TypeVar("T")

ATTEMPTS = 10
"""Of one control call; with the waits between them, some four minutes."""

CLOCK_SLACK_S = 300.0
"""How far a provider's clock may be off ours, where batches are looked for by their time."""

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 60.0


@dataclass(frozen=True, slots=True)
class Again:
    """A request that was not answered, through no fault of its own: it may be sent again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Results:
    """What came of the requests of a batch that has ended."""

    found: Mapping[str, Completion | Again]
    """By key, in the provider's order."""
    rest: Again
    """What holds for a request that is not among them."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A batch at the provider's that may be the one that is looked for."""

    id: str
    sure: bool
    """False: only its results tell."""


class Transient(Exception):
    """A control call failed in a way that may pass."""

    def __init__(self, status: int | None, told_s: float | None = None, *, unsure: bool = False) -> None:
        super().__init__(f"status {status}")
        self.status, self.told_s = status, told_s
        self.unsure = unsure
        """The provider may have done what it was asked to."""


class Refused(Exception):
    """A control call was refused, and would be the next time."""

    def __init__(self, status: int, why: str = "") -> None:
        told = " ".join(why.split())[:200]
        super().__init__(f"refused with status {status}" + (f": {told}" if told else ""))
        self.status = status


class BatchProvider(Protocol):
    """One provider's batch interface. Every call may raise `Transient` or a `TeacherError`."""

    most: int
    """Requests a batch."""
    most_bytes: int
    """Bytes a batch, a little below what the provider takes."""
    url: str

    def line(self, key: str, messages: Sequence[Message], sampling: Sampling) -> bytes:
        """One request, as it stands in a batch."""
        ...

    async def create(self, digest: str, lines: Sequence[bytes]) -> str:
        """Start a batch and give its id.

        Raises:
            Refused: it is not taken.
        """
        ...

    async def candidates(self, digest: str, size: int, since: float) -> list[Candidate]:
        """Batches made after a time that may be the one with this digest."""
        ...

    async def ended(self, id: str) -> bool:
        """Nothing more will come of it; of a batch that is gone as well."""
        ...

    async def results(self, id: str) -> Results:
        """What came of a batch that has ended."""
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...


async def patiently(call: Callable[[], Awaitable[T]], url: str) -> T:
    """The call's result, tried again while its failures may pass.

    Raises:
        TeacherUnreachable: it still fails after all attempts.
    """
    attempt = 1
    while True:
        try:
            return await call()
        except Transient as failure:
            if attempt == ATTEMPTS:
                raise gave_up(failure, url) from failure
            await pause(failure, attempt)
        attempt += 1


async def pause(failure: Transient, attempt: int) -> None:
    """Wait before the next attempt: as long as the provider says, or longer each time."""
    grown = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (attempt - 1))
    told = failure.told_s
    await asyncio.sleep((told or 0.0) + random.uniform(0.5, 1.0) * (grown if told is None else _FIRST_WAIT_S))


def passes(status: int) -> bool:
    """A status that another try may not meet again."""
    return status in (408, 409, 429) or status >= 500


def told_to_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait, if it says so."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return min(float(headers[name]) * unit, 120.0)
        except (KeyError, ValueError):
            continue
    return None


def no_answer(reason: str) -> Completion:
    """A request that went wrong, as a completion: its row is rejected with the reason."""
    return Completion("", reason, Usage(0, 0))


def gave_up(failure: Transient, url: str) -> TeacherUnreachable:
    """What is raised after the last attempt."""
    if failure.status is not None:
        return TeacherUnreachable(
            f"teacher-url: {url} answered {ATTEMPTS} times with status {failure.status}; wait, and run again"
        )
    if failure.unsure:
        return TeacherUnreachable(f"teacher-url: {url} timed out {ATTEMPTS} times; the run goes on where it was")
    return TeacherUnreachable(f"teacher-url: nothing answers at {url}; correct --teacher-url")


def denied(url: str, variable: str) -> TeacherDenied:
    """The key is refused."""
    return TeacherDenied(f"teacher-url: {url} refuses the key; put the right one into {variable}")


def unknown_model(url: str, model: str) -> TeacherUnknownModel:
    """The model is not there."""
    return TeacherUnknownModel(f"teacher-model: {url} has no model {model!r}; correct --teacher-model")
