"""What is asked of a served model and what it answers; plain data, shared by engine, API and application."""

from dataclasses import dataclass
from typing import Protocol

from cp_ray.errors import ConfigError, CpRayError
from cp_ray.records import Message

__all__ = ["Backend", "BadRequest", "ChatRequest", "ChatResult", "ContextTooLong", "ModelCard", "ModelSpec"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as it is served: the base, with an adapter or without."""

    id: str
    """The name a client asks for."""
    adapter: str | None = None
    """Folder or URI of a PEFT adapter, on any pyarrow filesystem; None is the bare base."""
    culture: str = ""
    language: str = ""
    system: str = ""
    """System prompt, put in front of chats that have none; empty: the chat template's own."""

    def __post_init__(self) -> None:
        if not self.id:
            raise ConfigError("models: each needs an id, got ''; name it, for example after its culture")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What clients are told about a served model."""

    id: str
    base: str
    culture: str = ""
    language: str = ""
    system: str = ""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat to be answered."""

    model: str
    messages: tuple[Message, ...]
    temperature: float = 0.7
    """0 takes the likeliest token each time."""
    max_tokens: int = 96
    seed: int = 0
    """The same request with the same seed is answered alike."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability are drawn from."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these."""


@dataclass(frozen=True, slots=True)
class ChatResult:
    """The answer to a chat."""

    text: str
    finish_reason: str
    """`stop`: it ended by itself or at a stop string; `length`: it was cut off."""
    prompt_tokens: int
    completion_tokens: int


class BadRequest(CpRayError, ValueError):
    """A request that cannot be answered, through its own fault."""

    code = "invalid_request"


class ContextTooLong(BadRequest):
    """The prompt leaves no room for an answer in the model's context."""

    code = "context_length_exceeded"


class Backend(Protocol):
    """What the API needs from whatever answers."""

    def models(self) -> list[ModelCard]:
        """The models served, in the order to list them."""
        ...

    async def complete(self, request: ChatRequest) -> ChatResult:
        """Answer a chat.

        Raises:
            BadRequest: the request itself is at fault.
        """
        ...
