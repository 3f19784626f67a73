"""What happens to every request before and after it is answered: key, limits, time-out, headers, log, metrics."""

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from cp_ray.serving.call import Call
from cp_ray.serving.openai_shapes import error_body, sse
from cp_ray.serving.service import Service

__all__ = ["Operation", "needs_key"]

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_log = logging.getLogger("cp_ray.serving")

_OPEN = re.compile(r"/(|healthz|readyz|docs|openapi\.json|page/[a-z]+\.[a-z]+)")
_BODY_BYTES = 4_000_000
_TOO_LONG = f"the body may have {_BODY_BYTES} bytes"


def needs_key(path: str) -> bool:
    """Whether a path is for those with a key alone."""
    return _OPEN.fullmatch(path) is None


class Operation:
    """ASGI middleware."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or not needs_key(path):
            await self._app(scope, receive, send)
            return
        call = Call(scope["method"], path)
        scope.setdefault("state", {})["call"] = call
        try:
            await self._guarded(call, scope, receive, send)
        finally:
            call.end()
            self._service.metrics.ended(call)
            self._service.log.write(call)

    async def _guarded(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        service, headers = self._service, dict(scope["headers"])
        call.key = service.keys.holder(headers.get(b"authorization", b"").decode("latin-1"))
        if call.key is None:
            await _refuse(call, scope, receive, send, 401, "a valid key is needed: Authorization: Bearer …")
            return
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > _BODY_BYTES:
            await _refuse(call, scope, receive, send, 413, _TOO_LONG)
            return
        if scope["method"] != "POST":
            await self._answered(call, scope, receive, send)
            return
        if service.draining:
            again = {"retry-after": "5"}
            await _refuse(call, scope, receive, send, 503, "the server is going away", code="draining", headers=again)
            return
        refused = service.gate.enter(call.key)
        if refused is not None:
            service.metrics.refused(refused.code)
            again = {"retry-after": refused.retry_after}
            await _refuse(call, scope, receive, send, 429, refused.message, code=refused.code, headers=again)
            return
        service.metrics.under_way(service.gate.under_way)
        try:
            await self._answered(call, scope, receive, send)
        finally:
            service.gate.leave(call.key, call.tokens)
            service.metrics.under_way(service.gate.under_way)

    async def _answered(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        events = False

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal events
            if message["type"] == "http.response.start":
                call.status = message["status"]
                call.route = getattr(scope.get("route"), "path", call.route)
                headers = [*message.get("headers", []), *_headers(call)]
                events = any(v.startswith(b"text/event-stream") for k, v in headers if k == b"content-type")
                message = {**message, "headers": headers}
            await send(message)

        try:
            async with asyncio.timeout(self._service.timeout_s):
                await self._app(scope, _bounded(receive), sending)
        except TimeoutError:
            call.error = "timeout"
            message = f"no answer within {self._service.timeout_s:g} s; ask for less, or try again"
            told, call.status = call.status, 504
            if not told:
                await _refuse(call, scope, receive, send, 504, message, code="timeout")
            elif events:
                last = sse(error_body(504, message, code="timeout"))
                await send({"type": "http.response.body", "body": last.encode(), "more_body": False})
        except Exception as error:
            if call.status:
                call.error = repr(error)[:500]
                raise
            # What it was stands in the server's log; a client gets no details of the inside.
            _log.exception("a request failed: %s", call.id)
            message = f"the server failed to answer ({type(error).__name__}); try again"
            await _refuse(call, scope, receive, send, 500, message, code="server_error")
            call.error = repr(error)[:500]
        except asyncio.CancelledError:
            call.error = "client left"
            call.status = call.status or 499
            raise


def _bounded(receive: Receive) -> Receive:
    """A body that comes in pieces need not say how long it is: its bytes are counted."""
    read = 0

    async def receiving() -> MutableMapping[str, Any]:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > _BODY_BYTES:
            raise HTTPException(413, _TOO_LONG)
        return message

    return receiving


async def _refuse(
    call: Call,
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int,
    message: str,
    *,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> None:
    call.status, call.error = status, code or str(status)
    more = {k.decode(): v.decode() for k, v in _headers(call)}
    if status == 401:
        more["www-authenticate"] = "Bearer"
    response = JSONResponse(error_body(status, message, code=code), status, {**more, **(headers or {})})
    with contextlib.suppress(OSError):
        await response(scope, receive, send)


def _headers(call: Call) -> list[tuple[bytes, bytes]]:
    told = {"x-request-id": call.id, "x-cp-model": call.model, "x-cp-version": call.version, "x-cp-route": call.why}
    return [(name.encode(), value.encode("ascii", "replace")) for name, value in told.items() if value]
