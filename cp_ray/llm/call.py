"""One call to a model: what is asked, what comes back, and the shape of the function between them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cp_ray.errors import ConfigError
from cp_ray.records import Message

__all__ = [
    "ANSWERED", "GAVE_UP", "WITHHELD", "Completion", "Generate", "Sampling", "Token", "Usage", "came_to_nothing",
    "ending", "failure", "request_key", "storable",
]  # fmt: skip

_ENCODE = json.JSONEncoder(ensure_ascii=False).encode
"""Made once: `json.dumps` makes an encoder for each call."""

ANSWERED = ("stop", "length", "refusal")
"""Finish reasons of answers that were paid for and would come out alike if asked again."""
WITHHELD = "content_filter"
"""Finish reason of an answer that the provider keeps back: what there is to say to this question."""
_BROKEN_OFF = ("abort", "error")
"""What servers call an answer that they did not bring to its end."""

GAVE_UP = "gave up"
"""How the reason begins of a call that kept failing in ways that may pass: another model may have an answer."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn."""

    temperature: float = 0.7
    """0 takes the likeliest token each time."""
    max_tokens: int = 96
    seed: int = 0
    """Tells samples of the same messages apart; the provider may or may not honour it."""
    schema: str | None = None
    """JSON Schema of the answer, as text, where it has to be JSON of that form."""
    logprobs: int | None = None
    """So many of the likeliest tokens are told at each place, with the one drawn; None tells nothing."""
    answer: str | None = None
    """The answer, word for word, where its log-probability is asked for. Few servers can be told (this one, vLLM)."""
    prefilled: bool = False
    """It is told as the end of the prompt, whose tokens' log-probabilities come back, as vLLM can; otherwise as the one
    answer that may be drawn."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise ConfigError(f"temperature: must be between 0 and 2, got {self.temperature}")
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens: must be at least 1, got {self.max_tokens}")
        if self.prefilled and self.answer is None:
            raise ConfigError("prefilled: needs the answer that stands in the prompt, got none")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that were paid for."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an answer and its natural log-probability."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()
    """The likeliest tokens at its place, with theirs."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer."""

    text: str
    finish_reason: str
    """`stop`: it ended by itself; `length`: it was cut off; `content_filter`: the provider withheld it; `refusal`:
    the model declined. Any other is the reason why there is no answer."""
    usage: Usage
    usd: float = 0.0
    """What it cost, by the price known; 0 where none is."""
    model: str | None = None
    """Who answered, where that is told."""
    logprobs: tuple[Token, ...] | None = None
    """Of the answer's tokens, where they were asked for and told."""


class Generate(Protocol):
    """The only door to a model, as a stage sees it."""

    async def __call__(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Answer a chat.

        Raises:
            TeacherError: the model cannot be used at all. What one answer got wrong is not an error.
        """
        ...


def came_to_nothing(reason: str) -> bool:
    """Did a call that ended for this reason bring no answer at all, so that it says nothing of the model?"""
    return reason not in (*ANSWERED, WITHHELD)


def ending(told: object, text: str) -> str:
    """The finish reason of an answer, by what the server calls it: a name of its own for `stop` is taken as that."""
    reason = storable(str(told or "stop"))
    return reason if reason in (*ANSWERED, WITHHELD, *_BROKEN_OFF) or not text else "stop"


def storable(text: str) -> str:
    """A text without halves of surrogates, which JSON can carry and which can be neither stored nor sent."""
    return text.encode(errors="replace").decode()


def failure(reason: str) -> Completion:
    """What comes of a call that came to no answer."""
    return Completion("", reason, Usage(0, 0))


def request_key(model: str, messages: Sequence[Message], sampling: Sampling, server: str = "") -> str:
    """A request's address in the ledger: 32 hex digits, the same for the same request everywhere.

    `server`: its URL, where an answer is that server's alone.
    """
    drawn = [float(sampling.temperature), sampling.max_tokens, sampling.seed, sampling.schema]
    if sampling.logprobs is not None or sampling.answer is not None:
        # An answer that was paid for without them keeps its address.
        drawn += [sampling.logprobs, sampling.answer, *(["prefilled"] if sampling.prefilled else [])]
    body = [model, [[m.role, m.content] for m in messages], drawn, *([server] if server else [])]
    return hashlib.sha256(_ENCODE(body).encode()).hexdigest()[:32]
