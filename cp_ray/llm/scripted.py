"""A model that answers as told: for tests and dry runs.

    Scripted(["first answer", "second"])            from a list, in order
    Scripted(lambda messages, sampling: "…")        from a function; an exception it returns is raised
    python -m cp_ray.llm.scripted --port 9000       as an OpenAI-compatible server on loopback

The server's answers depend on the request alone, so whatever runs against it can be compared row by row.
"""

import argparse
import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from cp_ray.llm.call import Completion, Sampling, Token, Usage
from cp_ray.llm.plausible import plausible
from cp_ray.records import Message

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["Answer", "Scripted", "scripted_app", "shown_logprobs"]

Answer = Callable[[Sequence[Message], Sampling], "str | Completion | BaseException"]


class Scripted:
    """A `Generate` without a model."""

    def __init__(self, answers: Iterable[str | Completion | BaseException] | Answer) -> None:
        self.calls: list[tuple[tuple[Message, ...], Sampling]] = []
        """What it was asked, in order."""
        if callable(answers):
            self._answer: Answer = answers
        else:
            rest = iter(answers)
            self._answer = lambda messages, sampling: next(rest)

    async def __call__(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Answer as told."""
        self.calls.append((tuple(messages), sampling))
        answer = self._answer(messages, sampling)
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, Completion):
            return answer
        return Completion(answer, "stop", Usage(sum(_tokens(m.content) for m in messages), _tokens(answer)))


def scripted_app(
    answer: Answer = plausible,
    *,
    models: Sequence[str] = ("scripted",),
    key: str | None = None,
    latency_s: float = 0.0,
    faults: Sequence[int] = (),
) -> "FastAPI":
    """OpenAI's chat API over a scripted model, which counts what it is asked.

    GET /stats gives `calls`, `requests` (how often each distinct request was answered) and `most_at_once`.

    Args:
        answer: to every chat.
        models: ids that it knows.
        key: refuse every other one with 401; None takes any.
        latency_s: before each answer.
        faults: status codes for the first tries of each distinct request, in order.
    """
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse

    app = FastAPI()
    tried: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    under_way = most_at_once = 0

    def refuse(status: int, message: str, code: str | None = None) -> JSONResponse:
        headers = {"retry-after-ms": "20"} if status == 429 else None
        return JSONResponse({"error": {"message": message, "type": "error", "code": code}}, status, headers)

    def denied(request: Request) -> bool:
        return key is not None and request.headers.get("authorization") != f"Bearer {key}"

    @app.get("/v1/models")
    async def list_models(request: Request) -> Any:
        if denied(request):
            return refuse(401, "wrong key", "invalid_api_key")
        return {"object": "list", "data": [{"id": m, "object": "model", "created": 0, "owned_by": "-"} for m in models]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        if denied(request):
            return refuse(401, "wrong key", "invalid_api_key")
        body = await request.json()
        if body["model"] not in models:
            return refuse(404, "no such model", "model_not_found")
        id = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:24]
        tried[id] += 1
        if tried[id] <= len(faults):
            return refuse(faults[tried[id] - 1], "a fault, as told")
        nonlocal under_way, most_at_once
        under_way += 1
        most_at_once = max(most_at_once, under_way)
        await asyncio.sleep(latency_s)
        under_way -= 1
        messages = [Message(m["role"], m["content"]) for m in body["messages"]]
        form = body.get("response_format", {}).get("json_schema", {}).get("schema")
        sampling = Sampling(
            body.get("temperature", 1.0), body.get("max_tokens", 96), body.get("seed", 0),
            json.dumps(form, sort_keys=True) if form else None,
            body.get("top_logprobs", 0) if body.get("logprobs") else None,
        )  # fmt: skip
        made = await Scripted(answer)(messages, sampling)
        answered[id] += 1
        return _reply(id, body["model"], made)

    @app.get("/stats")
    async def stats() -> dict[str, Any]:
        return {"calls": sum(answered.values()), "requests": dict(answered), "most_at_once": most_at_once}

    return app


def _reply(id: str, model: str, made: Completion) -> dict[str, Any]:
    usage = made.usage
    return {
        "id": f"chatcmpl-{id}",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": made.text},
                "finish_reason": made.finish_reason,
                "logprobs": shown_logprobs(made),
            }
        ],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
    }


def shown_logprobs(made: Completion) -> dict[str, Any] | None:
    """An answer's log-probabilities in OpenAI's form."""
    return None if made.logprobs is None else {"content": [_shown(token) for token in made.logprobs]}


def _shown(token: Token) -> dict[str, Any]:
    top = [{"token": text, "logprob": value} for text, value in token.top]
    return {"token": token.text, "logprob": token.logprob, "top_logprobs": top}


def _tokens(text: str) -> int:
    return len(text) // 4 + 1


def _main() -> None:
    import uvicorn

    parser = argparse.ArgumentParser(
        prog="python -m cp_ray.llm.scripted", description="A scripted teacher on loopback."
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    given = parser.parse_args()
    uvicorn.run(scripted_app(latency_s=given.latency_ms / 1000), host="127.0.0.1", port=given.port, log_level="warning")


if __name__ == "__main__":
    _main()
