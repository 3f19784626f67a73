"""Both providers' batch interfaces over a scripted model, for tests and dry runs.

    python -m cp_ray.llm.scripted_batch --port 9001 --delay-s 5

OpenAI's stands at /v1/files and /v1/batches, Anthropic's at /v1/messages/batches. Everything is in memory. Like the
real ones it gives results in an order of its own, and lets single requests fail without the batch.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cp_ray.llm.plausible import plausible
from cp_ray.llm.scripted import Answer
from cp_ray.llm.scripted_anthropic import anthropic_batches
from cp_ray.llm.scripted_desk import BatchFaults, Desk, refuse
from cp_ray.llm.scripted_openai import openai_batches

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

__all__ = ["BatchFaults", "scripted_batch_app"]


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
    desk = Desk(answer, models, delay_s, faults or BatchFaults())

    @app.middleware("http")
    async def guard(request: "Request", go_on: Any) -> "Response":
        sent = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        if key is not None and sent != key and request.url.path != "/stats":
            return refuse(401, "authentication_error")
        if int(request.headers.get("content-length", 0)) > most_bytes:
            return refuse(413, "request_too_large")
        reply: Response = await go_on(request)
        return reply

    openai_batches(app, desk, most)
    anthropic_batches(app, desk, most)

    @app.get("/stats")
    async def stats() -> Any:
        sizes = [batch.size for batch in desk.batches.values()]
        counts = {"calls": sum(desk.paid.values()), "requests": dict(desk.paid)}
        return JSONResponse({**counts, "batches": sizes, "polls": desk.polls})

    return app


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
