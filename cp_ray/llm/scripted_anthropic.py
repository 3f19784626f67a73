"""Anthropic's batch interface over a scripted model: /v1/messages/batches."""

import datetime
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

from cp_ray.llm.call import Completion
from cp_ray.llm.scripted_desk import Batch, Desk, fault, jsonl, page, refuse, shuffled

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

__all__ = ["anthropic_batches"]


def anthropic_batches(app: "FastAPI", desk: Desk, most: int) -> None:
    """Its batches, of at most so many requests each, on `app`."""
    from fastapi import Request

    async def create(request: Request) -> Any:
        asked = (await request.json())["requests"]
        if not asked or len(asked) > most or len({one["custom_id"] for one in asked}) < len(asked):
            return refuse(400, "invalid_request_error")
        batch = desk.open(len(asked), "msgbatch")
        failing, losing = desk.failing, desk.losing
        for one in asked:
            if failing:
                result: dict[str, Any] = {"type": "canceled"}
            elif one["params"]["model"] not in desk.models:
                result = _errored("not_found_error")
            elif refused := _not_allowed(one["params"]):
                result = _errored(refused)
            else:
                result = _anthropic_result(one["params"], await desk.ask(one["custom_id"], one["params"]))
            batch.lines.append({"custom_id": one["custom_id"], "result": result})
        batch.lines = shuffled(batch.lines)
        return refuse(500, "api_error") if losing else _anthropic_batch(batch, request)

    async def retrieve(id: str, request: Request) -> Any:
        return fault(desk) or (
            _anthropic_batch(desk.batches[id], request) if id in desk.batches else refuse(404, "not_found_error")
        )

    async def list_all(request: Request, after_id: str | None = None, limit: int = 20) -> Any:
        batches, more = page(desk, "msgbatch", after_id, limit)
        ids: list[str | None] = [b.id for b in batches] or [None]
        data = [_anthropic_batch(b, request) for b in batches]
        return {"data": data, "has_more": more, "first_id": ids[0], "last_id": ids[-1]}

    async def results(id: str) -> Any:
        if id not in desk.batches or not desk.batches[id].ended:
            return refuse(404, "not_found_error")
        return jsonl(desk.batches[id].lines)

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


def _anthropic_batch(batch: Batch, request: "Request") -> dict[str, Any]:
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
