"""Requests on their way through the engine: what is asked, as tokens, and what has been drawn."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cp_ray.chat import encode_answers, encode_prompt, end_of_turn
from cp_ray.errors import BaseModelError, ConfigError
from cp_ray.serving.adapters import Fetched
from cp_ray.serving.chat import BadRequest, ChatRequest, ContextTooLong, Piece, TokenLogprob
from cp_ray.serving.guide import Choices, Guide, Guides
from cp_ray.serving.text import Writer
from cp_ray.serving.turns import HELD_STEPS

__all__ = ["Prepare", "Row", "end_tokens"]


@dataclass(slots=True, eq=False)
class Row:
    """A request on its way."""

    request: ChatRequest
    prompt: list[int]
    digest: bytes
    """Of the prompt and the choice: requests with one seed would otherwise all draw alike."""
    limit: int
    """Tokens that may be drawn."""
    writer: Writer
    deliver: Callable[["Piece | BaseException"], None] = lambda _: None
    labels: tuple[int, ...] = ()
    """The first token of each label."""
    guide: Guide | Choices | None = None
    fetched: Fetched | None = None
    """The model's adapter, if it was not on the base when the request came."""
    drawn: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Not delivered yet."""
    cached: int = 0
    admitted: int = 0
    """Rows that were admitted before it."""
    passed: int = 0
    """Steps in which it was held back for another tenant's."""
    finish_reason: str = ""
    cancelled: bool = False

    @property
    def model(self) -> str:
        """What it asks for."""
        return self.request.model

    @property
    def tenant(self) -> str:
        """Who asks."""
        return self.request.tenant

    @property
    def cost(self) -> int:
        """Tokens of the prompt and of the longest answer: what it may come to hold."""
        return len(self.prompt) + self.limit

    @property
    def due(self) -> bool:
        """Whether it was held back for long enough."""
        # A little less than its own, so that with its neighbours it takes no more than twice its time.
        return self.passed >= 7 / 8 * max(min(self.limit, HELD_STEPS), len(self.drawn))

    def tokens(self, first: int, count: int) -> list[int]:
        """So many of them, from the first on."""
        known = len(self.prompt)
        return self.prompt[first : first + count] if first < known else self.drawn[first - known :][:count]

    @property
    def ids(self) -> list[int]:
        """All of its tokens."""
        return self.prompt + self.drawn


class Prepare:
    """Turns requests into rows; for several threads."""

    def __init__(self, tokenizer: Any, context: int, vocabulary: int, ends: set[int]) -> None:
        """For a model.

        Args:
            tokenizer: the model's.
            context: tokens of a prompt and its answer together.
            vocabulary: size of the model's.
            ends: tokens that end an answer.
        """
        self._tokenizer = tokenizer
        self._context = context
        self._guides = Guides(tokenizer, vocabulary, ends)
        self._lock = threading.Lock()  # a tokenizer is not for several threads

    def __call__(self, request: ChatRequest) -> Row:
        """A request as tokens.

        Raises:
            BadRequest: it cannot be answered.
        """
        with self._lock:
            ids, text, labels = self._encode(request)
        room = self._context - len(ids)
        if room < 1:
            field = "messages" if request.text is None else "prompt"
            raise ContextTooLong(f"{field}: {len(ids)} tokens do not fit the model's context of {self._context}")
        answers = self._answers(request) if request.choices else []
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
        if request.choice:
            digest.update(f"/{request.choice}".encode())
        limit = 1 if labels else min(request.max_tokens, room)
        guide: Guide | Choices | None = self._guides.of(request.schema) if request.schema else None
        if answers:
            guide, limit = Choices(answers), max(map(len, answers))
            if limit > request.max_tokens:
                raise BadRequest(
                    f"structured_outputs: a choice must have at most {request.max_tokens} tokens here, got {limit}; "
                    f"shorten it"
                )
            if limit > room:
                raise ContextTooLong(f"structured_outputs: {len(ids)} tokens leave no room for a choice of {limit}")
        writer = Writer(self._tokenizer, request.stop)
        return Row(request, ids, digest.digest(), limit, writer, labels=labels, guide=guide)

    def _encode(self, request: ChatRequest) -> tuple[list[int], str, tuple[int, ...]]:
        try:
            if request.text is not None:
                return self._plain(request.text), request.text, ()
            if not request.labels:
                prompt = encode_prompt(self._tokenizer, request.messages)
                return list(prompt.ids), prompt.text, ()
            ids, answers = encode_answers(self._tokenizer, request.messages, request.labels)
        except (BaseModelError, ConfigError) as error:
            raise BadRequest(f"messages: cannot be answered; {error}") from error
        firsts = tuple(answer[0] for answer in answers)
        if len(set(firsts)) < len(firsts):
            raise BadRequest(f"labels: {', '.join(request.labels)} must begin with different tokens")
        return list(ids), repr(ids), firsts

    def _answers(self, request: ChatRequest) -> list[tuple[int, ...]]:
        try:
            with self._lock:
                return encode_answers(self._tokenizer, request.messages, request.choices)[1]
        except (BaseModelError, ConfigError) as error:
            raise BadRequest(f"structured_outputs: {error}") from error

    def _plain(self, text: str) -> list[int]:
        """Tokens of a text in which control tokens are text."""
        ids: list[int] = self._tokenizer(text, split_special_tokens=True)["input_ids"]
        if not ids:
            raise BadRequest("prompt: must not be empty")
        return ids


def end_tokens(generation: Any, tokenizer: Any) -> set[int]:
    """The tokens that end an answer: what the model's makers say, and what its chat template writes there."""
    configured: int | list[int] | None = generation.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return {i for i in [*several, tokenizer.eos_token_id, end_of_turn(tokenizer)] if i is not None}
