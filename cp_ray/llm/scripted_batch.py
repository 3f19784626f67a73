"""Both providers' batch interfaces over a scripted model, for tests and dry runs.

    python -m cp_ray.llm.scripted_batch --port 9001 --delay-s 5

OpenAI's stands at /v1/files and /v1/batches, Anthropic's at /v1/messages/batches. Everything is in memory. Like the
real ones it gives results in an order of its own, and lets single requests fail without the batch.
"""

import argparse
import datetime
import email.message
import email.parser
import hashlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cp_ray.llm.call import Completion, Sampling
from cp_ray.llm.plausible import plausible
from cp_ray.llm.scripted import Answer, Scripted
from cp_ray.records import Message

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

__all__ = ["BatchFaults", "scripted_batch_app"]


@dataclass(frozen=True, slots=True)
class BatchFaults:
    """What goes wrong, as told."""

    statuses: tuple[int, ...] = ()
    """Answers to the first polls."""
    lost: int = 0
    """So many first batches are created, and the call that did it gets status 500."""
    failed: int = 0
    """So many first batches come to nothing: OpenAI's fail, Anthropic's are cancelled."""
    expired: int = 0
    """So many requests of the first batch that does not fail expire."""
    overloaded: int = 0
    """So many requests after those get the provider's own error."""
    invalid: Callable[[Sequence[Message]], bool] = lambda messages: False
    """Requests that are not allowed."""


@dataclass(slots=True)
class _Batch:
    id: str
    created: float
    size: int
    over: float
    """When it ends, by the monotonic clock."""
    metadata: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    """Code of what made it fail as a whole."""
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Results in the provider's form."""

    @property
    def ended(self) -> bool:
        return time.monotonic() >= self.over


class _Desk:
    """What both interfaces do: keep batches, answer requests, count, and go wrong."""

    def __init__(self, answer: Answer, models: Sequence[str], delay_s: float, faults: BatchFaults) -> None:
        self.models, self.faults, self.delay_s = models, faults, delay_s
        self._answer = answer
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, _Batch] = {}
        self.paid: Counter[str] = Counter()
        self.polls = 0
        self._expired = self._overloaded = 0

    def open(self, size: int, kind: str) -> _Batch:
        id = f"{kind}_{len(self.batches) + 1:06d}"
        batch = self.batches[id] = _Batch(id, time.time(), size, time.monotonic() + self.delay_s)
        return batch

    @property
    def failing(self) -> bool:
        """The batch opened last is to come to nothing."""
        return len(self.batches) <= self.faults.failed

    @property
    def losing(self) -> bool:
        """The answer to the call that opened the last batch is to be lost."""
        return len(self.batches) <= self.faults.lost

    async def ask(self, key: str, body: dict[str, Any]) -> Completion | str:
        """The answer to a request, which is paid for; or what it failed of, which is not."""
        messages = [Message(m["role"], m["content"]) for m in body["messages"]]
        if isinstance(body.get("system"), str):
            messages.insert(0, Message("system", body["system"]))
        if self.faults.invalid(messages):
            return "invalid"
        if self._expired < self.faults.expired:
            self._expired += 1
            return "expired"
        if self._overloaded < self.faults.overloaded:
            self._overloaded += 1
            return "overloaded"
        self.paid[key] += 1
        sampling = Sampling(body.get("temperature", 1.0), body["max_tokens"], body.get("seed", 0))
        return await Scripted(self._answer)(messages, sampling)


def scripted_batch_app(
    answer: Answer = plausible,
    *,
    models: Sequence[str] = ("scripted",),
    key: str | None = None,
    delay_s: float = 0.0,
    faults: BatchFaults | None = None,
    most: int = 50_000,
    most_bytes: int = 200_000_000,
) -> "FastAPI":
    """Both batch interfaces over a scripted model, which counts what it is asked.

    GET /stats gives `calls`, `requests` (how often each distinct request was answered, by its custom id), `batches`
    (the number of requests of each, in order) and `polls`.

    Args:
        answer: to every chat.
        models: ids that it knows.
        key: refuse every other one with 401; None takes any.
        delay_s: from a batch's creation to its end.
        faults: what goes wrong.
        most: requests a batch; larger ones are refused.
        most_bytes: of a batch; larger ones are refused.
    """
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse

    app = FastAPI()
    desk = _Desk(answer, models, delay_s, faults or BatchFaults())

    @app.middleware("http")
    async def guard(request: "Request", go_on: Any) -> "Response":
        sent = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        if key is not None and sent != key and request.url.path != "/stats":
            return _refuse(401, "authentication_error")
        if int(request.headers.get("content-length", 0)) > most_bytes:
            return _refuse(413, "request_too_large")
        reply: Response = await go_on(request)
        return reply

    _openai(app, desk, most)
    _anthropic(app, desk, most)

    @app.get("/stats")
    async def stats() -> Any:
        sizes = [batch.size for batch in desk.batches.values()]
        counts = {"calls": sum(desk.paid.values()), "requests": dict(desk.paid)}
        return JSONResponse({**counts, "batches": sizes, "polls": desk.polls})

    return app


def _refuse(status: int, kind: str) -> "Response":
    from fastapi.responses import JSONResponse

    headers = {"retry-after": "0.02"} if status == 429 else None
    error = {"type": kind, "code": kind, "message": "as told"}
    return JSONResponse({"type": "error", "error": error}, status, headers)


def _fault(desk: _Desk) -> "Response | None":
    """The answer to a poll that is to go wrong."""
    desk.polls += 1
    if desk.polls > len(desk.faults.statuses):
        return None
    return _refuse(desk.faults.statuses[desk.polls - 1], "api_error")


def _page(desk: _Desk, kind: str, after: str | None, limit: int) -> tuple[list[_Batch], bool]:
    """Batches from the newest on, and whether there are more."""
    mine = [batch for batch in reversed(desk.batches.values()) if batch.id.startswith(kind)]
    ids = [batch.id for batch in mine]
    first = ids.index(after) + 1 if after in ids else 0
    return mine[first : first + limit], len(mine) > first + limit


def _shuffled(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(lines, key=lambda line: hashlib.sha256(line["custom_id"].encode()).digest())


def _jsonl(lines: Sequence[dict[str, Any]]) -> "Response":
    from fastapi import Response

    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    return Response(text.encode(), media_type="application/x-jsonl")


# OpenAI's


def _openai(app: "FastAPI", desk: _Desk, most: int) -> None:
    from fastapi import Request

    async def upload(request: Request) -> Any:
        content = _part(await request.body(), request.headers["content-type"], "file")
        id = f"file-{len(desk.files) + 1:06d}"
        desk.files[id] = content
        about = {"object": "file", "purpose": "batch", "status": "processed", "created_at": 0, "filename": "-"}
        return {"id": id, "bytes": len(content), **about}

    async def create(request: Request) -> Any:
        told = await request.json()
        asked = [json.loads(line) for line in desk.files[told["input_file_id"]].splitlines()]
        batch = desk.open(len(asked), "batch")
        losing = desk.losing  # of this batch; others may be opened while its requests are answered
        batch.metadata = told.get("metadata") or {}
        if len(asked) > most:
            batch.error = "too_many_tasks"
        elif any(line["body"]["model"] not in desk.models for line in asked):
            batch.error = "model_not_found"
        elif len({line["custom_id"] for line in asked}) < len(asked):
            batch.error = "duplicate_custom_id"
        elif desk.failing:
            batch.error = "token_limit_exceeded"
        else:
            lines = [_openai_line(line, await desk.ask(line["custom_id"], line["body"])) for line in asked]
            batch.lines = _shuffled(lines)
        return _refuse(500, "server_error") if losing else _openai_batch(batch)

    async def retrieve(id: str) -> Any:
        return _fault(desk) or (
            _openai_batch(desk.batches[id]) if id in desk.batches else _refuse(404, "not_found_error")
        )

    async def list_all(after: str | None = None, limit: int = 20) -> Any:
        batches, more = _page(desk, "batch", after, limit)
        return {"object": "list", "data": [_openai_batch(b) for b in batches], "has_more": more}

    async def content(id: str) -> Any:
        kind, _, batch = id.partition("-")
        if batch not in desk.batches:
            return _refuse(404, "not_found_error")
        return _jsonl([line for line in desk.batches[batch].lines if _is_error(line) == (kind == "errors")])

    app.post("/v1/files")(upload)
    app.get("/v1/files/{id}/content")(content)
    app.post("/v1/batches")(create)
    app.get("/v1/batches")(list_all)
    app.get("/v1/batches/{id}")(retrieve)


def _part(body: bytes, content_type: str, name: str) -> bytes:
    """One part of a form."""
    form: email.message.Message = email.parser.BytesParser().parsebytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body
    )
    for part in form.get_payload():
        assert isinstance(part, email.message.Message)
        if part.get_param("name", header="content-disposition") == name:
            found = part.get_payload(decode=True)
            assert isinstance(found, bytes)
            return found
    raise KeyError(name)


def _openai_line(asked: dict[str, Any], made: Completion | str) -> dict[str, Any]:
    line = {"id": f"batch_req_{asked['custom_id'][:8]}", "custom_id": asked["custom_id"]}
    if made == "expired":
        return {**line, "response": None, "error": {"code": "batch_expired", "message": "as told"}}
    if isinstance(made, str):
        error = {"error": {"code": made, "message": "as told"}}
        status = 400 if made == "invalid" else 503
        return {**line, "response": {"status_code": status, "request_id": "-", "body": error}, "error": None}
    body = {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": asked["body"]["model"],
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": made.text}, "finish_reason": made.finish_reason}
        ],
        "usage": {
            "prompt_tokens": made.usage.prompt_tokens,
            "completion_tokens": made.usage.completion_tokens,
            "total_tokens": made.usage.prompt_tokens + made.usage.completion_tokens,
        },
    }
    return {**line, "response": {"status_code": 200, "request_id": "-", "body": body}, "error": None}


def _is_error(line: dict[str, Any]) -> bool:
    return line["response"] is None or line["response"]["status_code"] != 200


def _openai_batch(batch: _Batch) -> dict[str, Any]:
    status = "in_progress"
    if batch.ended:
        status = "completed" if batch.error is None else "failed"
    bad = sum(_is_error(line) for line in batch.lines)
    done = status == "completed"
    errors = [{"code": batch.error, "message": "as told"}] if status == "failed" else []
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "input_file_id": "-",
        "created_at": int(batch.created),
        "status": status,
        "metadata": batch.metadata,
        "errors": {"object": "list", "data": errors} if errors else None,
        "output_file_id": f"answers-{batch.id}" if done and bad < batch.size else None,
        "error_file_id": f"errors-{batch.id}" if done and bad else None,
        "request_counts": {"total": batch.size, "completed": batch.size - bad, "failed": bad},
    }


# Anthropic's


def _anthropic(app: "FastAPI", desk: _Desk, most: int) -> None:
    from fastapi import Request

    async def create(request: Request) -> Any:
        asked = (await request.json())["requests"]
        if not asked or len(asked) > most or len({one["custom_id"] for one in asked}) < len(asked):
            return _refuse(400, "invalid_request_error")
        batch = desk.open(len(asked), "msgbatch")
        failing, losing = desk.failing, desk.losing
        for one in asked:
            if failing:
                result: dict[str, Any] = {"type": "canceled"}
            elif one["params"]["model"] not in desk.models:
                result = _errored("not_found_error")
            elif fault := _not_allowed(one["params"]):
                result = _errored(fault)
            else:
                result = _anthropic_result(one["params"], await desk.ask(one["custom_id"], one["params"]))
            batch.lines.append({"custom_id": one["custom_id"], "result": result})
        batch.lines = _shuffled(batch.lines)
        return _refuse(500, "api_error") if losing else _anthropic_batch(batch, request)

    async def retrieve(id: str, request: Request) -> Any:
        return _fault(desk) or (
            _anthropic_batch(desk.batches[id], request) if id in desk.batches else _refuse(404, "not_found_error")
        )

    async def list_all(request: Request, after_id: str | None = None, limit: int = 20) -> Any:
        batches, more = _page(desk, "msgbatch", after_id, limit)
        ids: list[str | None] = [b.id for b in batches] or [None]
        data = [_anthropic_batch(b, request) for b in batches]
        return {"data": data, "has_more": more, "first_id": ids[0], "last_id": ids[-1]}

    async def results(id: str) -> Any:
        if id not in desk.batches or not desk.batches[id].ended:
            return _refuse(404, "not_found_error")
        return _jsonl(desk.batches[id].lines)

    app.post("/v1/messages/batches")(create)
    app.get("/v1/messages/batches")(list_all)
    app.get("/v1/messages/batches/{id}")(retrieve)
    app.get("/v1/messages/batches/{id}/results")(results)


def _not_allowed(params: dict[str, Any]) -> str | None:
    """What the real interface refuses and ours must therefore not send."""
    roles = [m["role"] for m in params["messages"]]
    in_turn = all(one != next for one, next in itertools.pairwise(roles))
    if not roles or set(roles) - {"user", "assistant"} or not in_turn or params.get("temperature", 1.0) > 1:
        return "invalid_request_error"
    return None


def _anthropic_result(params: dict[str, Any], made: Completion | str) -> dict[str, Any]:
    if made == "expired":
        return {"type": "expired"}
    if isinstance(made, str):
        return _errored("invalid_request_error" if made == "invalid" else "overloaded_error")
    reasons = {"stop": "end_turn", "length": "max_tokens"}
    message = {
        "id": "msg_0",
        "type": "message",
        "role": "assistant",
        "model": params["model"],
        "content": [{"type": "text", "text": made.text}],
        "stop_reason": reasons.get(made.finish_reason, made.finish_reason),
        "stop_sequence": None,
        "usage": {"input_tokens": made.usage.prompt_tokens, "output_tokens": made.usage.completion_tokens},
    }
    return {"type": "succeeded", "message": message}


def _errored(kind: str) -> dict[str, Any]:
    return {"type": "errored", "error": {"type": "error", "error": {"type": kind, "message": "as told"}}}


def _anthropic_batch(batch: _Batch, request: "Request") -> dict[str, Any]:
    kinds = Counter(line["result"]["type"] for line in batch.lines) if batch.ended else Counter(processing=batch.size)
    counts = {kind: kinds[kind] for kind in ("processing", "succeeded", "errored", "canceled", "expired")}
    created = datetime.datetime.fromtimestamp(batch.created, datetime.UTC).isoformat()
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if batch.ended else "in_progress",
        "request_counts": counts,
        "created_at": created,
        "ended_at": created if batch.ended else None,
        "results_url": f"{request.base_url}v1/messages/batches/{batch.id}/results" if batch.ended else None,
    }


def _main() -> None:
    import uvicorn

    parser = argparse.ArgumentParser(
        prog="python -m cp_ray.llm.scripted_batch", description="A scripted batch provider on loopback."
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay-s", type=float, default=0.0)
    given = parser.parse_args()
    uvicorn.run(scripted_batch_app(delay_s=given.delay_s), host="127.0.0.1", port=given.port, log_level="warning")


if __name__ == "__main__":
    _main()
