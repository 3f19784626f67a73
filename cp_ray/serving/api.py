"""OpenAI's HTTP API for whatever answers chats, with what is this project's own beside it."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from cp_ray.serving.admin import add_admin
from cp_ray.serving.chat import BadRequest, ModelCard
from cp_ray.serving.chats import add_chats
from cp_ray.serving.education import add_education
from cp_ray.serving.embeddings import add_embeddings
from cp_ray.serving.moderation import add_moderation
from cp_ray.serving.openai_shapes import ErrorBody, Refusal, error_body
from cp_ray.serving.operation import Operation, needs_key
from cp_ray.serving.page import add_page
from cp_ray.serving.routing import UnknownModel
from cp_ray.serving.service import Service
from cp_ray.serving.wrong_bodies import told
from cp_ray.survey.counts import items, read_counts

__all__ = ["build_api"]


def build_api(service: Service) -> FastAPI:
    """The HTTP application of `service`; the official `openai` client works with it unchanged."""
    api = _Api(
        title="cp_ray",
        description="Culture models behind OpenAI's API. Keys, if the server has any: Authorization: Bearer …",
        redoc_url=None,
        responses={
            400: {"model": ErrorBody, "description": "The request is at fault"},
            "default": {"model": ErrorBody, "description": "Any other error"},
        },
    )
    add_chats(api, service)
    add_embeddings(api, service)
    add_moderation(api, service)
    add_education(api, service, items(read_counts()))
    add_admin(api, service)
    add_page(api)
    _add_models(api, service)
    _add_health(api, service)
    _report_errors(api)
    api.add_middleware(Operation, service=service)
    return api


class _Api(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Its description; keys are asked for by `Operation`, of which FastAPI knows nothing."""
        told = super().openapi()
        told["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in told["paths"].items():
            for operation in operations.values():
                if needs_key(path):
                    operation["security"] = [{"key": []}]
                else:
                    operation["responses"].pop("400", None)
        return told


def _add_models(api: FastAPI, service: Service) -> None:
    started = int(time.time())

    @api.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """The models that this key may ask."""
        allowed = service.router(request.state.call.key).cards
        return {"object": "list", "data": [_card(service, card, started) for card in allowed]}

    @api.get("/v1/models/{id:path}")
    async def model(id: str, request: Request) -> dict[str, Any]:
        """One of them."""
        return _card(service, service.router(request.state.call.key).named(id), started)


def _add_health(api: FastAPI, service: Service) -> None:
    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether this process lives."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def readyz() -> Response:
        """Whether requests are answered: 503 while an engine is missing, and once no more are taken."""
        ready = not service.draining and await service.backend.load() is not None
        state = {"status": "ready" if ready else "draining" if service.draining else "no engine"}
        return JSONResponse(state, 200 if ready else 503, {} if ready else {"retry-after": "1"})

    @api.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        if not request.state.call.key.admin:
            raise Refusal(403, "this key may not see metrics; it is no admin's", code="forbidden")
        service.metrics.engine(await service.backend.load())
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _report_errors(api: FastAPI) -> None:
    """Answer every error in OpenAI's shape; what nobody foresaw is answered by `Operation`."""

    def on(kind: type[Exception]) -> Callable[[Callable[[Request, Any], Awaitable[Response]]], Any]:
        return api.exception_handler(kind)

    @on(Refusal)
    async def refusal(request: Request, error: Refusal) -> Response:
        return _noted(request, str(error), error.response)

    @on(BadRequest)
    async def bad_request(request: Request, error: BadRequest) -> Response:
        field = str(error).partition(":")[0]
        status = 404 if isinstance(error, UnknownModel) else 400
        return _noted(request, str(error), _error(status, str(error), param=field, code=error.code))

    @on(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        where, why = told(error.errors(), error.body)
        message = f"{where or 'body'}: {why}"
        return _noted(request, message, _error(400, message, param=where or None, code="invalid_value"))

    @on(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        response = _error(error.status_code, str(error.detail))
        response.headers.update(error.headers or {})  # a 405 says what is allowed
        return _noted(request, str(error.detail), response)

    @on(ConnectionError)
    async def lost(request: Request, error: ConnectionError) -> Response:
        message = "no engine answers at the moment; try again"
        response = _error(503, message, code="unavailable")
        response.headers["retry-after"] = "1"
        return _noted(request, str(error), response)


def _noted(request: Request, message: str, response: Response) -> Response:
    call = getattr(request.state, "call", None)
    if call is not None:
        call.error = message[:500] if response.status_code >= 500 else str(response.status_code)
    return response


def _error(status: int, message: str, *, param: str | None = None, code: str | None = None) -> JSONResponse:
    return JSONResponse(error_body(status, " ".join(message.split()), param=param, code=code), status_code=status)


def _card(service: Service, card: ModelCard, created: int) -> dict[str, Any]:
    stable = service.traffic.of(card.id).stable
    origin = service.origins.get(stable.adapter or "")
    return {
        "id": card.id,
        "object": "model",
        "created": created,
        "owned_by": "cp_ray",
        "culture": card.culture,
        "language": card.language,
        "locales": list(card.locales),
        "aliases": list(card.aliases),
        "base": card.base,
        "version": stable.version,
        **(origin.card() if origin else {"training_run": None, "scores": []}),
    }
