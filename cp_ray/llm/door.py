"""The way to a model, light enough to travel to a worker: the ledger before the limiter before the endpoint."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cp_ray.llm.call import Completion, Sampling, request_key
from cp_ray.llm.limiter import Limits
from cp_ray.records import Message

if TYPE_CHECKING:
    from cp_ray.llm.endpoint import Endpoint
    from cp_ray.llm.ledger import Ledger
    from cp_ray.progress import Progress

__all__ = ["Door", "OpenDoor"]

NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Door:
    """Where a model is and under which limits it is asked."""

    url: str
    model: str
    ledger: str
    """Run folder, a path or URI."""
    step: str
    """Under which name its calls stand in the ledger."""
    limits: Limits = NO_LIMITS
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key, which itself goes nowhere but to the endpoint."""
    in_flight: int = 32
    """Records that a worker has under way at once."""

    def open(self, progress: "Progress | None" = None) -> "OpenDoor":
        """What heavy objects it takes, in the worker."""
        from cp_ray.llm.endpoint import Endpoint
        from cp_ray.llm.ledger import Ledger
        from cp_ray.llm.limiter import SharedLimiter

        limiter = SharedLimiter(self.limits, self.url) if self.limits.any else None
        endpoint = Endpoint(self.url, self.model, os.environ.get(self.key_variable), limiter=limiter)
        return OpenDoor(self.model, endpoint, Ledger(self.ledger, self.step, self.model), progress)


class OpenDoor:
    """A `Generate` that pays for nothing twice."""

    def __init__(self, model: str, endpoint: "Endpoint", ledger: "Ledger", progress: "Progress | None") -> None:
        self._model, self._endpoint, self._ledger, self._progress = model, endpoint, ledger, progress

    async def __call__(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Answer a chat, from the ledger if it has been answered before."""
        key = request_key(self._model, messages, sampling)
        answer, paid = await self._ledger.get_or_call(key, lambda: self._endpoint(messages, sampling))
        if self._progress is not None:
            spent = answer.usage.prompt_tokens + answer.usage.completion_tokens
            self._progress.add(**({"calls": 1, "tokens": spent} if paid else {"replayed": 1}))
        return answer

    async def close(self) -> None:
        """Close its connections and its file."""
        self._ledger.close()
        await self._endpoint.close()
