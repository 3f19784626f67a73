"""One call to a model: what is asked, what comes back, and the shape of the function between them."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cp_ray.errors import ConfigError
from cp_ray.records import Message

__all__ = ["Completion", "Generate", "Sampling", "Usage", "request_key"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn."""

    temperature: float = 0.7
    """0 takes the likeliest token each time."""
    max_tokens: int = 96
    seed: int = 0
    """Tells samples of the same messages apart; the provider may or may not honour it."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise ConfigError(f"temperature: must be between 0 and 2, got {self.temperature}")
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens: must be at least 1, got {self.max_tokens}")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that were paid for."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer."""

    text: str
    finish_reason: str
    """`stop`: it ended by itself; `length`: it was cut off; `content_filter`: the provider withheld it."""
    usage: Usage


class Generate(Protocol):
    """The only door to a model, as a stage sees it."""

    async def __call__(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Answer a chat.

        Raises:
            TeacherError: the model cannot be used at all. What one answer got wrong is not an error.
        """
        ...


def request_key(model: str, messages: Sequence[Message], sampling: Sampling) -> str:
    """A request's address in the ledger: 32 hex digits, the same for the same request everywhere."""
    body = [model, [[m.role, m.content] for m in messages], dataclasses.asdict(sampling)]
    return hashlib.sha256(json.dumps(body, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:32]
