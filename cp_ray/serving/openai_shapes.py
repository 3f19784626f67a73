"""Answers in the shapes of OpenAI's API."""

import itertools
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from cp_ray.serving.chat import ChatResult, Piece, TokenLogprob

__all__ = ["ErrorBody", "Refusal", "Shape", "error_body", "sse", "usage_of"]


class Refusal(Exception):
    """Ends a request with an error in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.response = JSONResponse(
            error_body(status, message, param=param, code=code), status_code=status, headers=headers
        )


class Fault(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    """The field that is at fault."""
    code: str | None


class ErrorBody(BaseModel):
    """An error, for the API's description; `error_body` makes them."""

    error: Fault


def error_body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error; `status`: HTTP's."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Shape:
    """How the answer to one request is written: a chat's or a text's."""

    def __init__(self, model: str, *, chat: bool, logprobs: bool, choices: int, texts: Sequence[str] = ()) -> None:
        """Begin.

        Args:
            model: that answers.
            chat: whether it is a chat's.
            logprobs: whether log-probabilities are told.
            choices: so many answers, one after the other, have the same prompt.
            texts: that are gone on with, one for each answer.
        """
        self.chat, self._logprobs, self._choices = chat, logprobs, choices
        # Where the next token of each answer begins; OpenAI counts from the beginning of the prompt.
        self._reached = [len(text) for text in texts]
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, results: Sequence[ChatResult]) -> dict[str, Any]:
        """All answers at once."""
        return {
            **self._head,
            "object": "chat.completion" if self.chat else "text_completion",
            "choices": [self._choice(index, result) for index, result in enumerate(results)],
            "usage": usage_of(dict(enumerate(results)), self._choices),
        }

    def chunk(self, index: int, piece: Piece, *, first: bool) -> dict[str, Any]:
        """A piece of the answer `index`."""
        choice: dict[str, Any] = {"index": index, "finish_reason": piece.finish_reason or None}
        if self.chat:
            choice["delta"] = ({"role": "assistant"} if first else {}) | {"content": piece.text}
            choice["logprobs"] = _chat_logprobs(piece.logprobs) if self._logprobs else None
        else:
            choice["text"] = piece.text
            choice["logprobs"] = self._text_logprobs(index, piece.logprobs) if self._logprobs else None
        return {**self._head, "object": self._chunk_object, "choices": [choice]}

    def usage_chunk(self, results: Mapping[int, Piece]) -> dict[str, Any]:
        """The last one, if usage is asked for."""
        return {**self._head, "object": self._chunk_object, "choices": [], "usage": usage_of(results, self._choices)}

    @property
    def _chunk_object(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _choice(self, index: int, result: ChatResult) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "finish_reason": result.finish_reason}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": result.text, "refusal": None}
            choice["logprobs"] = _chat_logprobs(result.logprobs) if self._logprobs else None
        else:
            choice["text"] = result.text
            choice["logprobs"] = self._text_logprobs(index, result.logprobs) if self._logprobs else None
        return choice

    def _text_logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        *begins, self._reached[index] = itertools.accumulate(
            (len(t.text) for t in tokens), initial=self._reached[index]
        )
        return {
            "tokens": [t.text for t in tokens],
            "token_logprobs": [max(t.logprob, -9999.0) for t in tokens],
            "top_logprobs": [{text: max(value, -9999.0) for text, value in t.top} for t in tokens],
            "text_offset": begins,
        }


def usage_of(results: Mapping[int, ChatResult | Piece], choices: int) -> dict[str, Any]:
    """Tokens of each prompt, which so many `choices` share, and of all answers."""
    prompts = {k // choices: r for k, r in results.items()}
    prompt = sum(r.prompt_tokens for r in prompts.values())
    drawn = sum(r.completion_tokens for r in results.values())
    return {
        "prompt_tokens": prompt,
        "completion_tokens": drawn,
        "total_tokens": prompt + drawn,
        "prompt_tokens_details": {"cached_tokens": sum(r.cached_tokens for r in prompts.values())},
    }


def sse(data: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    def shown(text: str, logprob: float) -> dict[str, Any]:
        # A token may hold a part of a character only: its bytes are not known then.
        raw = None if "\ufffd" in text else list(text.encode())
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": raw}

    content = [shown(t.text, t.logprob) | {"top_logprobs": [shown(*pair) for pair in t.top]} for t in tokens]
    return {"content": content, "refusal": None}
