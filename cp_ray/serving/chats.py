"""/v1/chat/completions and /v1/completions."""

import asyncio
import json
import logging
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Send

from cp_ray.records import Message
from cp_ray.serving.bodies import ChatBody, ChatMessage, CompletionBody, ResponseFormat, Sampling, culture_of
from cp_ray.serving.call import Call
from cp_ray.serving.chat import Backend, BadRequest, ChatRequest, ChatResult, Piece
from cp_ray.serving.openai_shapes import Refusal, Shape, error_body, sse
from cp_ray.serving.routing import Asked
from cp_ray.serving.service import Service
from cp_ray.serving.tally import Tally

__all__ = ["add_chats"]

_log = logging.getLogger("cp_ray.serving")

_TEXT_TOKENS = 16
"""The length of what a text goes on with where none is asked for, as in OpenAI's API."""


def add_chats(api: FastAPI, service: Service) -> None:
    """Add the routes."""

    @api.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        """Answer a chat."""
        messages = tuple(_message(m) for m in body.messages)
        said = next((m.content for m in reversed(messages) if m.role == "user"), "")
        top = None if not body.logprobs else body.top_logprobs or 0
        if body.top_logprobs and not body.logprobs:
            raise Refusal(400, "top_logprobs: needs logprobs to be true", param="top_logprobs")
        schema = _schema(body.response_format)
        choices = tuple(body.structured_outputs.choice) if body.structured_outputs else ()
        if schema and choices:
            raise Refusal(400, "structured_outputs: cannot go with response_format", param="structured_outputs")
        length = _length(service, body, "max_completion_tokens", "max_tokens") or service.answer_tokens
        asked = replace(
            _request(service, request, body, said),
            messages=messages,
            logprobs=top,
            schema=schema,
            choices=choices,
            # Many clients send some length with everything; a choice is never cut, and may have what is allowed here.
            max_tokens=service.max_answer_tokens if choices else length,
        )
        card = next(card for card in service.cards if card.id == request.state.call.model)
        if card.system and all(m.role != "system" for m in messages):
            asked = replace(asked, messages=(Message("system", card.system), *messages))
        requests = [replace(asked, choice=k) for k in range(body.n or 1)]
        return await _answer(service, request.state.call, requests, body, chat=True)

    @api.post("/v1/completions")
    async def completions(body: CompletionBody, request: Request) -> Response:
        """Go on with a text."""
        texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        asked = _request(service, request, body, texts[-1])
        asked = replace(asked, logprobs=body.logprobs, max_tokens=_length(service, body, "max_tokens") or _TEXT_TOKENS)
        requests = [replace(asked, text=text, choice=k) for text in texts for k in range(body.n or 1)]
        return await _answer(service, request.state.call, requests, body, chat=False)


def _request(service: Service, request: Request, body: Sampling, said: str) -> ChatRequest:
    """What both routes ask of the engine; its model is chosen here."""
    call: Call = request.state.call
    if service.log.prompts:
        call.prompt = said
    culture = culture_of(body.culture, body.metadata, request.headers)
    key = call.key
    accepted = request.headers.get("accept-language", "")
    asked = Asked(body.model, culture, key.culture if key else "", accepted, said)
    _, release = service.choose(call, asked)
    return ChatRequest(
        model=release.name,
        messages=(),
        temperature=1.0 if body.temperature is None else body.temperature,
        seed=random.getrandbits(63) if body.seed is None else body.seed,
        top_p=1.0 if body.top_p is None else body.top_p,
        stop=body.stops,
        adapter=release.adapter,
        tenant=key.name if key else "",
    )


def _length(service: Service, body: Sampling, *fields: str) -> int | None:
    """The longest answer that is asked for, by the first of these fields that says it."""
    for field in fields:
        asked: int | None = getattr(body, field)
        if asked is not None and asked > service.max_answer_tokens:
            message = f"{field}: must be at most {service.max_answer_tokens} here, got {asked}; ask for less"
            raise Refusal(400, message, param=field)
        if asked is not None:
            return asked
    return None


async def _answer(
    service: Service, call: Call, requests: Sequence[ChatRequest], body: Sampling, *, chat: bool
) -> Response:
    choices = body.n or 1
    logprobs, texts = requests[0].logprobs is not None, [request.text or "" for request in requests]
    shape = Shape(call.model, chat=chat, logprobs=logprobs, choices=choices, texts=texts)
    tally = Tally(call, requests, choices)
    with tally:
        if not body.stream:
            return JSONResponse(shape.whole(await _answers(service.backend, requests, tally)))
        pieces = _merged(service.backend, requests, tally)
        first = await anext(pieces)  # what is wrong with the request is told with a status
    call.first()
    usage = bool(body.stream_options and body.stream_options.include_usage)
    events = _events(call, shape, first, pieces, tally, usage=usage)
    return _Streamed(events, pieces)


class _Streamed(StreamingResponse):
    """Server-sent events; however they end, no work on the answers outlives them."""

    def __init__(self, events: AsyncGenerator[str], pieces: AsyncGenerator[tuple[int, Piece]]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self._events, self._pieces = events, pieces

    async def stream_response(self, send: Send) -> None:
        """Called by Starlette."""
        async with aclosing(self._pieces), aclosing(self._events):
            await super().stream_response(send)


async def _answers(backend: Backend, requests: Sequence[ChatRequest], tally: Tally) -> list[ChatResult]:
    """The answers to several requests; where one fails the others are given up."""
    tasks = [
        asyncio.ensure_future(backend.complete(request, partial(tally.heard, k))) for k, request in enumerate(requests)
    ]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _merged(backend: Backend, requests: Sequence[ChatRequest], tally: Tally) -> AsyncGenerator[tuple[int, Piece]]:
    """The pieces of several answers as they come."""
    queue: asyncio.Queue[tuple[int, Piece | Exception]] = asyncio.Queue()

    async def pump(index: int, request: ChatRequest) -> None:
        ended = False
        try:
            async with aclosing(backend.stream(request)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    tally.heard(index, piece)
                    queue.put_nowait((index, piece))
                    ended = bool(piece.finish_reason)
            if not ended:
                queue.put_nowait((index, ConnectionError("the engine stopped before the answer's end; ask again")))
        except Exception as error:  # noqa: BLE001 - it is raised where the pieces are read
            queue.put_nowait((index, error))

    tasks = [asyncio.create_task(pump(k, request)) for k, request in enumerate(requests)]
    left = len(tasks)
    try:
        while left:
            index, piece = await queue.get()
            if isinstance(piece, Exception):
                raise piece
            left -= bool(piece.finish_reason)
            yield index, piece
    finally:
        for task in tasks:
            task.cancel()


async def _events(
    call: Call,
    shape: Shape,
    first: tuple[int, Piece],
    pieces: AsyncGenerator[tuple[int, Piece]],
    tally: Tally,
    *,
    usage: bool,
) -> AsyncGenerator[str]:
    """The answer as server-sent events."""
    begun: set[int] = set()
    try:
        index, piece = first
        with tally:
            while True:
                yield sse(shape.chunk(index, piece, first=index not in begun))
                begun.add(index)
                try:
                    index, piece = await anext(pieces)
                except StopAsyncIteration:
                    break
        if usage:
            yield sse(shape.usage_chunk(tally.last))
        yield "data: [DONE]\n\n"
    except Exception as error:  # noqa: BLE001 - the status has been told: the stream itself has to say that it broke
        known = isinstance(error, BadRequest | ConnectionError)
        if not known:
            _log.exception("a stream broke off")
        call.status, call.error = 502, str(error) if known else repr(error)[:500]
        message = str(error) if known else f"the server failed to go on ({type(error).__name__}); try again"
        yield sse(error_body(502, message, code="stream_broken"))


def _message(message: ChatMessage) -> Message:
    content = message.content if isinstance(message.content, str) else "".join(p.text for p in message.content)
    # OpenAI's newer name for it; chat templates know only the older one.
    return Message("system" if message.role == "developer" else message.role, content)


def _schema(format: ResponseFormat | None) -> str:
    if format is None or format.type == "text":
        return ""
    if format.type == "json_object":
        return json.dumps({"type": "object"})
    if format.json_schema is None:
        raise Refusal(400, "response_format: json_schema needs a json_schema", param="response_format")
    try:
        return json.dumps(format.json_schema.schema_)
    except RecursionError as error:
        raise Refusal(400, "response_format: the schema is nested too deeply", param="response_format") from error
