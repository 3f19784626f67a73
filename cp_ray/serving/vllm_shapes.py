"""What vLLM is asked of a request, and an answer's pieces from what it says.

A prompt goes to it as token ids, by this project's own tokenising: a model is asked as it was taught, and by either
engine alike.
"""

import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from cp_ray.serving.chat import BadRequest, ChatRequest, Piece, TokenLogprob
from cp_ray.serving.rows import Row

__all__ = ["asked", "asked_given", "bodies", "drawn_tokens", "given_logprob", "pieces"]

_TOKEN = "token_id:"


def asked(row: Row, *, model: str, ends: Collection[int], context: int, priority: int, salt: str) -> dict[str, Any]:
    """The fields of a CompletionRequest for an answer to be drawn.

    Args:
        row: the request, as tokens.
        model: what vLLM knows its adapter, or the base, by.
        ends: tokens that end an answer.
        context: tokens of a prompt and its answer together.
        priority: the lower, the earlier it is computed.
        salt: what is kept of its prompt serves requests of the same salt alone.
    """
    request = row.request
    fields = _common(row, model, priority, salt) | {
        "max_tokens": row.limit,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": _seed(request),
        "stop": list(request.stop),
        "stop_token_ids": sorted(ends),
        "logprobs": request.logprobs,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    if request.schema:
        fields["structured_outputs"] = {"json": request.schema}
    if request.choices:
        # vLLM follows texts and may spell one in more tokens than it was taught in; it ends by itself.
        fields |= {"structured_outputs": {"choice": list(request.choices)}, "max_tokens": context - len(row.prompt)}
    return fields


def asked_given(row: Row, before: Sequence[int], token: int, *, model: str, priority: int, salt: str) -> dict[str, Any]:
    """The fields of a CompletionRequest for a token's log-probability, after others of the answer.

    Of what a grammar restricts vLLM tells log-probabilities among what it lets through; of a token that alone may be
    drawn, that of the free model. A prompt's it tells as well, but where adapters are computed on CPUs it dies of that
    (0.29).
    """
    return _common(row, model, priority, salt) | {
        "prompt": [*row.prompt, *before],
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": row.request.logprobs or 0,
        "allowed_token_ids": [token],
    }


def _common(row: Row, model: str, priority: int, salt: str) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": row.prompt,
        "priority": priority,
        "cache_salt": salt,
        "return_tokens_as_token_ids": True,
        # Ray would give all that one HTTP request asks the same.
        "request_id": uuid.uuid4().hex,
    }


def _seed(request: ChatRequest) -> int:
    """Of 63 bits: clients may send any number, and the choices of one request are to differ."""
    digest = hashlib.blake2b(f"{request.seed}/{request.choice}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def bodies(item: Any) -> Iterator[dict[str, Any]]:
    """The responses in one item of LLMServer's: a response, or text of server-sent events.

    Raises:
        BadRequest: vLLM says that the request is at fault.
        RuntimeError: it says that itself is.
    """
    if isinstance(item, str):
        lines = [line.removeprefix("data:").strip() for line in item.splitlines() if line.startswith("data:")]
        found = [json.loads(line) for line in lines if line != "[DONE]"]
    else:
        found = [item.model_dump()]
    for body in found:
        if body.get("error") is not None:
            _raise(body["error"])
        yield body


def _raise(error: Mapping[str, Any]) -> None:
    line = " ".join(str(error["message"]).split())[:300]
    if 400 <= int(error.get("code") or 500) < 500:
        raise BadRequest(f"request: vLLM cannot answer it; {line}")
    raise RuntimeError(f"vLLM failed to answer: {line}")


async def pieces(
    responses: AsyncIterator[dict[str, Any]], row: Row, text_of: Callable[[int], str]
) -> AsyncIterator[Piece]:
    """An answer's pieces from its responses: several chunks, or one whole.

    Args:
        responses: as from `bodies`.
        row: the request that they answer.
        text_of: a token's text.

    Raises:
        RuntimeError: they end before the answer does.
    """
    drawn = cached = 0
    last: tuple[str, str, tuple[TokenLogprob, ...]] | None = None
    async for response in responses:
        usage = response.get("usage") or {}
        drawn = usage.get("completion_tokens") or drawn
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or cached
        for choice in response["choices"]:
            logprobs = tuple(_logprobs(choice["logprobs"], row.request.logprobs, text_of))
            if choice["finish_reason"]:
                last = choice["text"], choice["finish_reason"], logprobs  # its usage may follow
            elif choice["text"] or logprobs:
                yield Piece(choice["text"], "", len(row.prompt), drawn, cached, logprobs)
    if last is None or last[1] not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended before the answer did ({last[1] if last else 'without a reason'})")
    text, reason, logprobs = last
    yield Piece(text, reason, len(row.prompt), drawn, cached, logprobs)


def drawn_tokens(response: Mapping[str, Any]) -> list[int]:
    """The tokens that a response to `asked` tells, where log-probabilities are asked for."""
    told = [choice["logprobs"]["tokens"] for choice in response["choices"] if choice["logprobs"]]
    return [_id(token) for tokens in told for token in tokens]


def given_logprob(response: Mapping[str, Any], row: Row, text_of: Callable[[int], str]) -> TokenLogprob:
    """What `asked_given` asked for."""
    (token,) = _logprobs(response["choices"][0]["logprobs"], row.request.logprobs or 0, text_of)
    return token


def _logprobs(told: Mapping[str, Any] | None, top: int | None, text_of: Callable[[int], str]) -> Iterator[TokenLogprob]:
    if told is None or top is None:
        return

    def text(token: str) -> str:
        return text_of(_id(token))

    tops = told["top_logprobs"] or [None] * len(told["tokens"])
    for token, logprob, likeliest in zip(told["tokens"], told["token_logprobs"], tops, strict=True):
        # The token drawn is among them, also where it is none of the likeliest.
        ranked = sorted((likeliest or {}).items(), key=lambda pair: -pair[1])[:top]
        yield TokenLogprob(text(token), logprob, tuple((text(name), value) for name, value in ranked))


def _id(token: str) -> int:
    return int(token.removeprefix(_TOKEN))
