"""What is asked of a served model and what it answers; plain data, shared by engine, API and application."""

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Protocol

from cp_ray.errors import ConfigError, CpRayError
from cp_ray.records import Message

__all__ = [
    "Backend",
    "BadRequest",
    "ChatRequest",
    "ChatResult",
    "ContextTooLong",
    "Load",
    "ModelCard",
    "ModelSpec",
    "Piece",
    "TokenLogprob",
    "whole",
]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as it is served: the base, with an adapter or without, or one with weights of its own."""

    id: str
    """The name a client asks for."""
    adapter: str | None = None
    """Folder or URI of a PEFT adapter, or of a whole model, on any pyarrow filesystem; None is the bare base."""
    culture: str = ""
    language: str = ""
    system: str = ""
    """System prompt, put in front of chats that have none; empty: the chat template's own."""
    locales: tuple[str, ...] = ()
    """BCP 47 tags of those whom it speaks for, the commonest first; requests are routed by them."""
    aliases: tuple[str, ...] = ()
    """Other names for it."""

    def __post_init__(self) -> None:
        if not self.id:
            raise ConfigError("models: each needs an id, got ''; name it, for example after its culture")

    @property
    def engine_name(self) -> str:
        """What an engine knows it by: with another adapter it is another, so that none is taken for the one before."""
        if self.adapter is None:
            return self.id
        return f"{self.id}@{hashlib.sha256(self.adapter.encode()).hexdigest()[:12]}"

    def card(self, base: str) -> "ModelCard":
        """What clients are told about it, and its base as they are told."""
        return ModelCard(self.id, base, self.culture, self.language, self.system, self.locales, self.aliases)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What clients are told about a served model."""

    id: str
    base: str
    culture: str = ""
    language: str = ""
    system: str = ""
    locales: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat to be answered."""

    model: str
    messages: tuple[Message, ...]
    temperature: float = 0.7
    """0 takes the likeliest token each time."""
    max_tokens: int = 96
    """The answer is cut off there; a choice that is longer is refused."""
    seed: int = 0
    """The same request with the same seed is answered alike, in float32 whatever is answered beside it."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability are drawn from."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these."""
    choice: int = 0
    """Tells apart the answers to one request that asks for several."""
    logprobs: int | None = None
    """How many of the likeliest tokens are told with each token drawn; None tells nothing."""
    labels: tuple[str, ...] = ()
    """If given, nothing is drawn: the log-probabilities of these as beginnings of the answer are told."""
    schema: str = ""
    """A JSON schema that the answer has to follow; empty: it is free."""
    choices: tuple[str, ...] = ()
    """If given, the answer is one of these, word for word."""
    text: str | None = None
    """A text to go on with instead of a chat, without the chat template."""
    adapter: str | None = None
    """Where the model's adapter lies, for an engine that does not have it yet."""
    tenant: str = ""
    """Who asks; those who wait are served in turn, and what is kept of a chat is kept for its tenant alone."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A drawn token and its natural log-probability, at temperature 1."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()
    """The likeliest tokens at its place, with theirs."""


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine is busy with."""

    rows: int
    """Chats that are being answered together."""
    adapters: int
    """How many adapters they are under."""
    waiting: int
    held: int
    """Tokens in the cache of keys and values."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer, as it comes."""

    text: str
    finish_reason: str = ""
    """Set on the last piece: `stop`: it ended by itself or at a stop string; `length`: it was cut off."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Drawn so far."""
    cached_tokens: int = 0
    """Of the prompt, known from before."""
    logprobs: tuple[TokenLogprob, ...] = ()
    labels: tuple[float, ...] = ()
    """Log-probabilities of the request's labels."""


@dataclass(frozen=True, slots=True)
class ChatResult:
    """The answer to a chat."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = field(default=0, compare=False)
    logprobs: tuple[TokenLogprob, ...] = ()
    labels: tuple[float, ...] = ()


def whole(pieces: "list[Piece]") -> ChatResult:
    """An answer from all of its pieces."""
    last = pieces[-1]
    return ChatResult(
        "".join(piece.text for piece in pieces),
        last.finish_reason,
        last.prompt_tokens,
        last.completion_tokens,
        last.cached_tokens,
        tuple(token for piece in pieces for token in piece.logprobs),
        last.labels,
    )


class BadRequest(CpRayError, ValueError):
    """A request that cannot be answered, through its own fault."""

    code = "invalid_request"


class ContextTooLong(BadRequest):
    """The prompt leaves no room for an answer in the model's context."""

    code = "context_length_exceeded"


class Backend(Protocol):
    """What the API needs from whatever answers."""

    async def complete(self, request: ChatRequest, heard: Callable[[Piece], None]) -> ChatResult:
        """Answer a chat.

        Args:
            request: the chat.
            heard: is given the pieces as they come, so that an answer that is given up is counted as far as it came.

        Raises:
            BadRequest: the request itself is at fault.
        """
        ...

    def stream(self, request: ChatRequest) -> AsyncIterator[Piece]:
        """Answer a chat piece by piece; leaving the iterator ends the work on it.

        Raises:
            BadRequest: the request itself is at fault; before the first piece.
        """
        ...

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """Vectors of unit length."""
        ...

    async def check(self, name: str, adapter: str) -> None:
        """Make sure that an adapter can be served.

        Raises:
            BadRequest: it cannot be read, or does not fit the base.
        """
        ...

    async def forget(self, name: str) -> None:
        """An adapter is not served any more; what is kept of it may go."""
        ...

    async def load(self) -> Load | None:
        """What it, or one of its replicas, is busy with now; None: it does not answer."""
        ...
