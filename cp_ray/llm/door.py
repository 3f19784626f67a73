"""The way to a model, light enough to travel to a worker: the ledger before the gate before the endpoint."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from cp_ray.errors import TeacherUnreachable
from cp_ray.llm.budget import Price
from cp_ray.llm.call import ANSWERED, GAVE_UP, Completion, Generate, Sampling, failure, request_key
from cp_ray.llm.limiter import NO_LIMITS, Limits
from cp_ray.records import Message

if TYPE_CHECKING:
    from cp_ray.llm.batch import BatchEndpoint
    from cp_ray.llm.endpoint import Endpoint
    from cp_ray.llm.gate import Gate
    from cp_ray.llm.ledger import Ledger
    from cp_ray.llm.shared import Shared
    from cp_ray.progress import Progress

__all__ = ["Batch", "Door", "OpenDoor", "Target"]

Batch = Literal["openai", "anthropic"]


@dataclass(frozen=True, slots=True)
class Target:
    """A model at a server."""

    url: str
    model: str
    price: Price | None = None
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key, which itself goes nowhere but to the server."""
    batch: Batch | None = None
    """Whose batch interface it is, if it is one."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where a model is and how it is asked."""

    targets: tuple[Target, ...]
    """The one that is asked, then those that are asked where it fails."""
    ledger: str
    """Run folder, a path or URI."""
    step: str
    """Under which name its calls stand in the ledger."""
    in_flight: int = 64
    """Records that a worker has under way at once, and calls."""
    timeout_s: float = 120.0
    control: Any = None
    """The actor with what the run's workers share (`control.control`); None: no limits, no budget."""
    limits: Limits = NO_LIMITS
    """Of the first target, unless it is a batch interface, which has limits of its own; what the others allow, their
    headers and refusals tell."""
    run: str = ""
    """Which run it is, among those on the cluster that share a limit."""
    server: str = ""
    """The first target's URL, where its answers are in the ledger as this server's alone."""

    def open(self, progress: "Progress | None" = None) -> "OpenDoor":
        """What heavy objects it takes, in the worker."""
        from cp_ray.llm.ledger import Ledger

        ledger = Ledger(self.ledger, self.step, self.targets[0].model)
        return OpenDoor(self, ledger, progress)

    def limiters(self) -> "list[Shared]":
        """The way to each target's limiter. Where the keys are in the environment: a limiter is a key's."""
        from cp_ray.llm.shared import Shared, limiter_name

        def limiter(target: Target, limits: Limits) -> Shared:
            key = os.environ.get(target.key_variable)
            if target.batch is not None:  # what a provider allows a minute does not hold for its batches
                return Shared(limiter_name(f"{target.url}/batches", target.model, key), self.run)
            return Shared(limiter_name(target.url, target.model, key), self.run, limits)

        first, *others = self.targets
        return [limiter(first, self.limits), *(limiter(target, NO_LIMITS) for target in others)]


class OpenDoor:
    """A `Generate` that pays for nothing twice."""

    def __init__(self, door: Door, ledger: "Ledger", progress: "Progress | None") -> None:
        from cp_ray.llm.gate import Gate

        self._model, self._ledger, self._progress = door.targets[0].model, ledger, progress
        self._server = door.server
        self._gates = [
            Gate(door.control, limiter, most=door.in_flight, probe=target.batch is None)
            for target, limiter in zip(door.targets, door.limiters(), strict=True)
            if door.control is not None
        ]
        gates: Sequence[Gate | None] = self._gates or [None] * len(door.targets)
        self._endpoints = [self._endpoint(door, *pair) for pair in zip(door.targets, gates, strict=True)]

    def _endpoint(self, door: Door, target: Target, gate: "Gate | None") -> "Endpoint | Batched":
        from cp_ray.llm.endpoint import Endpoint, check_key

        key = os.environ.get(target.key_variable)
        check_key(target.key_variable, key)
        if target.batch is not None:
            from cp_ray.llm.batch import BatchEndpoint

            endpoint = BatchEndpoint(target.batch, target.url, target.model, key, door.ledger)
            return Batched(endpoint, gate, target.model, target.price)
        return Endpoint(
            target.url, target.model, key,
            gate=gate, price=target.price, timeout_s=door.timeout_s, on_failure=self._failed,
        )  # fmt: skip

    async def __call__(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Answer a chat, from the ledger if it has been answered before."""
        key = request_key(self._model, messages, sampling, self._server)
        answer, paid = await self._ledger.get_or_call(key, lambda: self._ask(messages, sampling))
        if self._gates and not paid and answer.finish_reason in ANSWERED:  # who shares a call that failed has none
            self._gates[0].replayed()
        if self._progress is not None:
            if paid:
                spent = answer.usage.prompt_tokens + answer.usage.completion_tokens
                if self._gates:
                    self._progress.allowed_per_s = self._gates[0].limit[0]
                self._progress.add(calls=1, tokens=spent, usd=answer.usd)
            else:
                self._progress.add(replayed=1)
        return answer

    async def flush(self) -> None:
        """Write down and tell what is counted."""
        self._ledger.flush()
        for gate in self._gates:
            await gate.report()
        if self._progress is not None:
            self._progress.flush()

    async def close(self) -> None:
        """Close its connections, give its leases back, close its file."""
        for gate in self._gates:
            await gate.close()
        for endpoint in self._endpoints:
            await endpoint.close()
        self._ledger.close()

    async def _ask(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """The first endpoint's answer, or the next one's where it has none to give."""
        answer = failure(GAVE_UP)
        for number, endpoint in enumerate(self._endpoints, 1):
            answer = await _answer(endpoint, messages, sampling, last=number == len(self._endpoints))
            if not answer.finish_reason.startswith(GAVE_UP):
                break
        if self._gates:
            self._gates[0].ended(None if answer.finish_reason in ANSWERED else answer.finish_reason)
        return answer

    def _failed(self, kind: str) -> None:
        self._ledger.failed(kind)
        if self._progress is not None:
            self._progress.add(**{"failed tries": 1})


class Batched:
    """A batch interface whose calls pass the gate for their money's sake; it has limits of its own."""

    def __init__(self, endpoint: "BatchEndpoint", gate: "Gate | None", model: str, price: Price | None) -> None:
        self._endpoint, self._gate, self._model, self._price = endpoint, gate, model, price

    async def __call__(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Answer a chat, with the next batch."""
        most = self._price.most(messages, sampling.max_tokens) if self._price else 0.0
        if self._gate is not None:
            await self._gate.enter(0, most)
        usd = 0.0
        try:
            answer = await self._endpoint(messages, sampling)
            usd = self._price.cost(answer.usage.prompt_tokens, answer.usage.completion_tokens) if self._price else 0.0
            return replace(answer, usd=usd, model=self._model)
        finally:
            if self._gate is not None:
                self._gate.leave(most, usd)

    async def close(self) -> None:
        """Close its connections."""
        await self._endpoint.close()


async def _answer(endpoint: Generate, messages: Sequence[Message], sampling: Sampling, *, last: bool) -> Completion:
    """An endpoint that cannot be reached, or only answers with errors, has given up, if there is another."""
    try:
        return await endpoint(messages, sampling)
    except TeacherUnreachable:
        if last:
            raise
        return failure(f"{GAVE_UP}: nothing answers")
