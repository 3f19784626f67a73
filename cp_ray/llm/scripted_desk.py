"""What the scripted batch interfaces share: batches in memory, their answers, and what goes wrong as told."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cp_ray.llm.call import Completion, Sampling
from cp_ray.llm.scripted import Answer, Scripted
from cp_ray.records import Message

if TYPE_CHECKING:
    from fastapi import Response

__all__ = ["Batch", "BatchFaults", "Desk", "fault", "jsonl", "page", "refuse", "shuffled"]


@dataclass(frozen=True, slots=True)
class BatchFaults:
    """What goes wrong, as told."""

    statuses: tuple[int, ...] = ()
    """Answers to the first polls."""
    lost: int = 0
    """So many first batches are created, and the call that did it gets status 500."""
    failed: int = 0
    """So many first batches come to nothing: OpenAI's fail, Anthropic's are cancelled."""
    expired: int = 0
    """So many requests of the first batch that does not fail expire."""
    overloaded: int = 0
    """So many requests after those get the provider's own error."""
    invalid: Callable[[Sequence[Message]], bool] = lambda messages: False
    """Requests that are not allowed."""
    untold: bool = False
    """Log-probabilities are refused."""


@dataclass(slots=True)
class Batch:
    """One, from its creation on."""

    id: str
    created: float
    size: int
    over: float
    """When it ends, by the monotonic clock."""
    metadata: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    """Code of what made it fail as a whole."""
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Results in the provider's form."""

    @property
    def ended(self) -> bool:
        """Its time is over."""
        return time.monotonic() >= self.over


class Desk:
    """What both interfaces do: keep batches, answer requests, count, and go wrong."""

    def __init__(self, answer: Answer, models: Sequence[str], delay_s: float, faults: BatchFaults) -> None:
        self.models, self.faults, self.delay_s = models, faults, delay_s
        self._answer = answer
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Batch] = {}
        self.paid: Counter[str] = Counter()
        self.polls = 0
        self._expired = self._overloaded = 0

    def open(self, size: int, kind: str) -> Batch:
        """A new batch of so many requests; `kind` begins its id."""
        id = f"{kind}_{len(self.batches) + 1:06d}"
        batch = self.batches[id] = Batch(id, time.time(), size, time.monotonic() + self.delay_s)
        return batch

    @property
    def failing(self) -> bool:
        """The batch opened last is to come to nothing."""
        return len(self.batches) <= self.faults.failed

    @property
    def losing(self) -> bool:
        """The answer to the call that opened the last batch is to be lost."""
        return len(self.batches) <= self.faults.lost

    async def ask(self, key: str, body: dict[str, Any]) -> Completion | str:
        """The answer to a request, which is paid for; or what it failed of, which is not."""
        messages = [Message(m["role"], m["content"]) for m in body["messages"]]
        if isinstance(body.get("system"), str):
            messages.insert(0, Message("system", body["system"]))
        if self.faults.invalid(messages):
            return "invalid"
        if body.get("logprobs") and self.faults.untold:
            return "logprobs"
        if self._expired < self.faults.expired:
            self._expired += 1
            return "expired"
        if self._overloaded < self.faults.overloaded:
            self._overloaded += 1
            return "overloaded"
        self.paid[key] += 1
        top = body.get("top_logprobs", 0) if body.get("logprobs") else None
        sampling = Sampling(body.get("temperature", 1.0), body["max_tokens"], body.get("seed", 0), logprobs=top)
        return await Scripted(self._answer)(messages, sampling)


def refuse(status: int, kind: str) -> "Response":
    """An error in the form of both."""
    from fastapi.responses import JSONResponse

    headers = {"retry-after": "0.02"} if status == 429 else None
    error = {"type": kind, "code": kind, "message": "as told"}
    return JSONResponse({"type": "error", "error": error}, status, headers)


def fault(desk: Desk) -> "Response | None":
    """The answer to a poll that is to go wrong."""
    desk.polls += 1
    if desk.polls > len(desk.faults.statuses):
        return None
    return refuse(desk.faults.statuses[desk.polls - 1], "api_error")


def page(desk: Desk, kind: str, after: str | None, limit: int) -> tuple[list[Batch], bool]:
    """Batches from the newest on, and whether there are more."""
    mine = [batch for batch in reversed(desk.batches.values()) if batch.id.startswith(kind)]
    ids = [batch.id for batch in mine]
    first = ids.index(after) + 1 if after in ids else 0
    return mine[first : first + limit], len(mine) > first + limit


def shuffled(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results in an order of their own."""
    return sorted(lines, key=lambda line: hashlib.sha256(line["custom_id"].encode()).digest())


def jsonl(lines: Sequence[dict[str, Any]]) -> "Response":
    """JSON, a line each."""
    from fastapi import Response

    text = "".join(json.dumps(line) + "\n" for line in lines)
    return Response(text.encode(), media_type="application/x-jsonl")
