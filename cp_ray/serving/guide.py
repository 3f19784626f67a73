"""Answers that have to follow a JSON schema, or be one of several texts: what would leave them is not drawn.

Schemas are followed by llguidance.
"""

import functools
import importlib.util
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cp_ray.serving.chat import BadRequest

__all__ = ["Choices", "Guide", "Guides"]


class Guide:
    """Follows one answer."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._mask = torch.zeros(-(-vocabulary // 32), dtype=torch.int32)

    def restrict(self, logits: Tensor) -> None:
        """Make what may not come next impossible, in place; `logits`: [vocabulary]."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.data_ptr(), 4 * self._mask.numel())
        bits = (self._mask[:, None] >> torch.arange(32, dtype=torch.int32)) & 1
        logits.masked_fill_(bits.flatten()[: logits.shape[0]].to(logits.device) == 0, float("-inf"))

    def follow(self, token: int) -> bool:
        """A token was drawn: whether the answer is complete with it."""
        self._matcher.consume_token(token)
        return bool(self._matcher.is_stopped())

    @property
    def fault(self) -> str:
        """Why the schema can be followed no further; empty: it can."""
        return _line(self._matcher.get_error().partition("<state>")[0]) if self._matcher.is_error() else ""


class Choices:
    """Follows an answer that is one of several texts, each as the tokens that a model was taught it in."""

    fault = ""

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        """`answers`: the token ids of each, up to and including the one that ends the turn."""
        self._answers = list(dict.fromkeys(map(tuple, answers)))
        self._drawn = 0

    @property
    def sole(self) -> tuple[int, ...] | None:
        """The answer, where it can be no other."""
        return self._answers[0] if len(self._answers) == 1 else None

    def restrict(self, logits: Tensor) -> None:
        """As in `Guide`."""
        allowed = sorted({answer[self._drawn] for answer in self._answers})
        kept = logits[allowed]
        logits.fill_(float("-inf"))
        logits[allowed] = kept

    def follow(self, token: int) -> bool:
        """As in `Guide`."""
        self._answers = [answer for answer in self._answers if answer[self._drawn] == token]
        self._drawn += 1
        # Where no token ends a turn, one answer may be another's beginning: the shorter one is taken.
        return any(len(answer) == self._drawn for answer in self._answers)


class Guides:
    """Makes them, for one tokenizer."""

    def __init__(self, tokenizer: Any, vocabulary: int, ends: set[int]) -> None:
        self._tokenizer, self._vocabulary, self._ends = tokenizer, vocabulary, sorted(ends)
        self._lock = threading.Lock()

    def of(self, schema: str) -> Guide:
        """For an answer by this JSON schema.

        Raises:
            BadRequest: the schema is not one, or says what cannot be followed.
        """
        if importlib.util.find_spec("llguidance") is None:
            raise BadRequest("response_format: JSON answers need the package llguidance on the server")
        import llguidance

        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(schema)
            fault = llguidance.LLMatcher.validate_grammar(grammar, self._tokens)
        except ValueError as error:
            raise BadRequest(f"response_format: {_line(error)}") from error
        if fault:
            raise BadRequest(f"response_format: {_line(fault)}")
        return Guide(llguidance.LLMatcher(self._tokens, grammar), self._vocabulary)

    @property
    def _tokens(self) -> Any:
        with self._lock:
            return self._shared

    @functools.cached_property
    def _shared(self) -> Any:
        import llguidance.hf

        # Takes a second.
        return llguidance.hf.from_tokenizer(self._tokenizer, n_vocab=self._vocabulary, eos_token=self._ends)


def _line(said: object) -> str:
    return " ".join(str(said).split())[:300]
