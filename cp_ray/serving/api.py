"""OpenAI's HTTP API for whatever answers chats: /v1/chat/completions, /v1/models, and /healthz."""

import random
import time
import uuid
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from cp_ray.records import Message
from cp_ray.serving.chat import Backend, BadRequest, ChatRequest, ChatResult, ModelCard

__all__ = ["MAX_TOKENS", "build_api"]

MAX_TOKENS = 4096
"""The longest answer that may be asked for."""

DEFAULT_TOKENS = 256
"""The length of an answer when none is asked for."""

_STOPS = 4
"""Stop strings in one request, as at OpenAI."""


class TextPart(BaseModel):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]


class ChatBody(BaseModel):
    """The body of a chat completion request; OpenAI's other fields are accepted and have no effect."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=_STOPS)] | None = None
    n: int | None = None
    stream: bool | None = None


class _Refusal(Exception):
    """Ends a request with an error in OpenAI's shape."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.response = _error(status, message, param=param, code=code)


def build_api(backend: Backend) -> FastAPI:
    """The HTTP application in front of `backend`; the official `openai` client works with it unchanged."""
    api = FastAPI(title="cp_ray")
    started = int(time.time())
    cards = {card.id: card for card in backend.models()}

    @api.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody) -> dict[str, Any]:
        request = _request(body, cards)
        try:
            result = await backend.complete(request)
        except BadRequest as error:
            raise _Refusal(400, str(error), param="messages", code=error.code) from error
        return _completion(body.model, result)

    @api.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_card(card, started) for card in cards.values()]}

    @api.get("/v1/models/{id:path}")
    async def model(id: str) -> dict[str, Any]:
        return _card(_known(id, cards), started)

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    _report_errors(api)
    return api


def _report_errors(api: FastAPI) -> None:
    """Answer every error in OpenAI's shape."""

    @api.exception_handler(_Refusal)
    async def refusal(_: Request, error: _Refusal) -> JSONResponse:
        return error.response

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return _error(400, f"{where or 'body'}: {first['msg']}", param=where or None, code="invalid_value")

    @api.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail))

    @api.exception_handler(Exception)
    async def failure(_: Request, error: Exception) -> JSONResponse:
        # What it was stands in the server's log; a client gets no details of the inside.
        return _error(500, f"the server failed to answer ({type(error).__name__}); try again", code="server_error")


def _error(status: int, message: str, *, param: str | None = None, code: str | None = None) -> JSONResponse:
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error}, status_code=status)


def _known(id: str, cards: dict[str, ModelCard]) -> ModelCard:
    if id not in cards:
        message = f"model: {id!r} is not served; known: {', '.join(cards)}"
        raise _Refusal(404, message, param="model", code="model_not_found")
    return cards[id]


def _request(body: ChatBody, cards: dict[str, ModelCard]) -> ChatRequest:
    """What the engine is asked, or a refusal."""
    card = _known(body.model, cards)
    if body.n not in (None, 1):
        raise _Refusal(400, f"n: must be 1, got {body.n}; send the request again with another seed", param="n")
    if body.stream:
        raise _Refusal(400, "stream: is not supported yet; leave it out", param="stream", code="unsupported_value")
    messages = tuple(_message(m) for m in body.messages)
    if card.system and all(m.role != "system" for m in messages):
        messages = (Message("system", card.system), *messages)
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return ChatRequest(
        model=body.model,
        messages=messages,
        temperature=1.0 if body.temperature is None else body.temperature,
        max_tokens=body.max_completion_tokens or body.max_tokens or DEFAULT_TOKENS,
        seed=random.getrandbits(63) if body.seed is None else body.seed,
        top_p=1.0 if body.top_p is None else body.top_p,
        stop=tuple(s for s in stop if s),
    )


def _message(message: ChatMessage) -> Message:
    content = message.content if isinstance(message.content, str) else "".join(p.text for p in message.content)
    # OpenAI's newer name for it; chat templates know only the older one.
    return Message("system" if message.role == "developer" else message.role, content)


def _completion(model: str, result: ChatResult) -> dict[str, Any]:
    message = {"role": "assistant", "content": result.text, "refusal": None}
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": result.finish_reason, "logprobs": None}],
        "usage": {
            "prompt_tokens": result.prompt_tokens,
            "completion_tokens": result.completion_tokens,
            "total_tokens": result.prompt_tokens + result.completion_tokens,
        },
    }


def _card(card: ModelCard, created: int) -> dict[str, Any]:
    return {
        "id": card.id,
        "object": "model",
        "created": created,
        "owned_by": "cp_ray",
        "culture": card.culture,
        "language": card.language,
        "base": card.base,
    }
