"""The engine's replicas as the gateway sees them: a request whose replica dies is asked again of another."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from cp_ray.serving.chat import ChatRequest, ChatResult, Load, Piece, whole
from cp_ray.serving.replica import Replica, Wrong

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

__all__ = ["Engines"]

_TRIES = 6
_PAUSE_S = 0.2
"""Before the second try; doubled with each."""
_LOAD_S = 2.0
"""That an engine has to say what it is busy with; one that takes longer does not answer."""

R = TypeVar("R")


class Engines:
    """A backend of the API."""

    def __init__(self, handle: "DeploymentHandle[Replica]") -> None:
        self._handle = handle
        self._streams = handle.options(stream=True)

    async def complete(self, request: ChatRequest, heard: Callable[[Piece], None]) -> ChatResult:
        """As in `Backend`; raises ConnectionError if no replica lives long enough."""
        from ray.exceptions import RayActorError

        for attempt in range(_TRIES):
            told: list[Piece] = []
            # One that dies had accepted the request: another one answers it, to the same seed the same.
            with suppress(RayActorError):
                async with aclosing(self._pieces(request, whole=True)) as pieces:  # type: ignore[type-var]
                    async for piece in pieces:
                        heard(piece)
                        told.append(piece)
            if told and told[-1].finish_reason:
                return whole(told)
            await asyncio.sleep(_PAUSE_S * 2**attempt)
        raise ConnectionError("no engine answers")

    async def stream(self, request: ChatRequest) -> AsyncIterator[Piece]:
        """As in `Backend`; raises ConnectionError if the replica dies once something has been told."""
        from ray.exceptions import RayActorError

        for attempt in range(_TRIES):
            told = False
            try:
                async with aclosing(self._pieces(request, whole=False)) as pieces:  # type: ignore[type-var]
                    async for piece in pieces:
                        yield piece
                        told = True
                return
            except RayActorError as error:
                if told:
                    raise ConnectionError("the engine that was answering is gone; ask again") from error
                await asyncio.sleep(_PAUSE_S * 2**attempt)
        raise ConnectionError("no engine answers")

    async def _pieces(self, request: ChatRequest, *, whole: bool) -> AsyncIterator[Piece]:
        """An answer from one replica; leaving the iterator ends its work."""
        from ray.serve.exceptions import RayServeException

        pieces: Any = self._streams.stream.remote(request, whole)
        try:
            async for piece in pieces:
                yield _right(piece)
        except RayServeException as error:
            raise ConnectionError("no engine answers") from error
        finally:
            pieces.cancel()

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """As in `Backend`."""
        vectors: list[list[float]] = await self._asked(lambda: self._handle.embed.remote(texts))
        return vectors

    async def check(self, name: str, adapter: str) -> None:
        """As in `Backend`."""
        wrong: Wrong | None = await self._asked(lambda: self._handle.check.remote(name, adapter))
        if wrong is not None:
            raise wrong.error()

    async def forget(self, name: str) -> None:
        """As in `Backend`; a replica that does not answer keeps a copy that it does not need."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        with suppress(TimeoutError, RayError, RayServeException):
            told = self._handle.broadcast("forget", name)
            await told.results_async(timeout_s=_LOAD_S, return_exceptions=True)

    async def load(self) -> Load | None:
        """As in `Backend`."""
        try:
            async with asyncio.timeout(_LOAD_S):
                load: Load = await self._asked(lambda: self._handle.load.remote())
        except (TimeoutError, ConnectionError):
            return None
        return load

    async def _asked(self, ask: Callable[[], Any]) -> Any:
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import RayServeException

        for attempt in range(_TRIES):
            asked = ask()
            try:
                return await asked
            except asyncio.CancelledError:
                asked.cancel()
                raise
            except RayActorError:
                await asyncio.sleep(_PAUSE_S * 2**attempt)
            except RayServeException as error:
                raise ConnectionError("no engine answers") from error
        raise ConnectionError("no engine answers")


def _right(answer: R | Wrong) -> R:
    if isinstance(answer, Wrong):
        raise answer.error()
    return answer
