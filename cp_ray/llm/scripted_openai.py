"""OpenAI's batch interface over a scripted model: /v1/files and /v1/batches."""

import email.message
import email.parser
import json
from typing import TYPE_CHECKING, Any

from cp_ray.llm.call import Completion
from cp_ray.llm.scripted import shown_logprobs
from cp_ray.llm.scripted_desk import Batch, Desk, fault, jsonl, page, refuse, shuffled

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["openai_batches"]


def openai_batches(app: "FastAPI", desk: Desk, most: int) -> None:
    """Its files and batches, of at most so many requests each, on `app`."""
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
            batch.lines = shuffled(lines)
        return refuse(500, "server_error") if losing else _openai_batch(batch)

    async def retrieve(id: str) -> Any:
        return fault(desk) or (
            _openai_batch(desk.batches[id]) if id in desk.batches else refuse(404, "not_found_error")
        )

    async def list_all(after: str | None = None, limit: int = 20) -> Any:
        batches, more = page(desk, "batch", after, limit)
        return {"object": "list", "data": [_openai_batch(b) for b in batches], "has_more": more}

    async def content(id: str) -> Any:
        kind, _, batch = id.partition("-")
        if batch not in desk.batches:
            return refuse(404, "not_found_error")
        return jsonl([line for line in desk.batches[batch].lines if _is_error(line) == (kind == "errors")])

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
        error = {"error": {"code": made, "message": f"{made}, as told"}}
        status = 400 if made in ("invalid", "logprobs") else 503
        return {**line, "response": {"status_code": status, "request_id": "-", "body": error}, "error": None}
    body = {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": asked["body"]["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": made.text},
                "finish_reason": made.finish_reason,
                "logprobs": shown_logprobs(made),
            }
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


def _openai_batch(batch: Batch) -> dict[str, Any]:
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
