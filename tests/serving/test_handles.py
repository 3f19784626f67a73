"""What the gateway makes of replicas that die; their handle is a stand-in, so that each way of dying can be had."""

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import RayServeException

from cp_ray.serving.chat import ChatRequest, ChatResult, Load, Piece
from cp_ray.serving.handles import Engines

ANSWER = ChatResult("hi", "stop", 1, 2)
TOLD = [Piece("h", "", 1, 1), Piece("i", "stop", 1, 2)]
REQUEST = ChatRequest("base", ())
LOAD = Load(1, 1, 0, 5)


class Response:
    """Of one call: raises, answers, or streams."""

    def __init__(self, told: Any) -> None:
        self.told, self.cancelled = told, False

    def __await__(self) -> Any:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        if isinstance(self.told, Exception):
            raise self.told
        if self.told is None:
            await asyncio.sleep(60)
        return self.told

    async def __aiter__(self) -> AsyncIterator[Any]:
        for piece in self.told:
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                await asyncio.sleep(60)
            yield piece

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """Gives one response after the other, whatever is called."""

    def __init__(self, *told: Any) -> None:
        self.responses = [Response(t) for t in told]
        self.left = list(self.responses)

    def options(self, **_: Any) -> "Handle":
        return self

    def __getattr__(self, method: str) -> Any:
        return self

    def remote(self, *_: Any) -> Response:
        return self.left.pop(0)

    def broadcast(self, *told: Any) -> Any:
        self.told = told

        async def results_async(**_: Any) -> list[Any]:
            return [await self.left.pop(0)]

        return SimpleNamespace(results_async=results_async)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cp_ray.serving.handles._PAUSE_S", 0)
    monkeypatch.setattr("cp_ray.serving.handles._LOAD_S", 0.05)


def engines(*told: Any) -> tuple[Engines, Handle]:
    handle: Any = Handle(*told)
    return Engines(handle), handle


async def asked(backend: Engines, heard: Callable[[Piece], None] = lambda _: None) -> ChatResult:
    return await backend.complete(REQUEST, heard)


async def streamed(backend: Engines) -> list[str]:
    return [piece.text async for piece in backend.stream(REQUEST)]


def test_a_request_whose_replica_dies_is_asked_again() -> None:
    backend, _ = engines([ActorDiedError()], [Piece("h", "", 1, 1), ActorDiedError()], TOLD)
    assert asyncio.run(asked(backend)) == ANSWER
    backend, _ = engines([ActorDiedError()], [Piece("h"), Piece("i", "stop")])
    assert asyncio.run(streamed(backend)) == ["h", "i"]


def test_an_answer_that_ends_before_its_end_is_asked_for_again() -> None:
    backend, _ = engines(TOLD[:1], TOLD)
    assert asyncio.run(asked(backend)) == ANSWER


def test_who_waits_for_a_whole_answer_hears_how_far_it_is_and_ends_it_by_leaving() -> None:
    backend, handle = engines([Piece("h", "", 1, 1), None])
    heard: list[Piece] = []

    async def leave() -> None:
        async with asyncio.timeout(0.05):
            await asked(backend, heard.append)

    with pytest.raises(TimeoutError):
        asyncio.run(leave())
    assert [piece.completion_tokens for piece in heard] == [1]
    assert handle.responses[0].cancelled


def test_a_stream_that_has_told_something_is_not_told_again() -> None:
    backend, handle = engines([Piece("h"), ActorDiedError()], [Piece("h"), Piece("i", "stop")])
    with pytest.raises(ConnectionError, match="ask again"):
        asyncio.run(streamed(backend))
    assert len(handle.left) == 1


@pytest.mark.parametrize("told", [[ActorDiedError()] * 6, [RayServeException("unavailable")]], ids=["dead", "gone"])
@pytest.mark.parametrize("ask", [asked, streamed], ids=["whole", "stream"])
def test_without_any_replica_it_says_so(told: list[Exception], ask: Callable[[Engines], Any]) -> None:
    backend, _ = engines(*([t] for t in told))
    with pytest.raises(ConnectionError, match="no engine answers"):
        asyncio.run(ask(backend))


@pytest.mark.parametrize("told", [ActorDiedError(), RayServeException("unavailable")], ids=["dead", "gone"])
def test_an_engine_that_is_not_there_is_busy_with_nothing_that_is_known(told: Exception) -> None:
    assert asyncio.run(engines(*[told] * 6)[0].load()) is None
    assert asyncio.run(engines(LOAD)[0].load()) == LOAD


@pytest.mark.parametrize("told", ["done", ActorDiedError(), RayServeException("unavailable"), TimeoutError()])
def test_all_replicas_are_told_of_an_adapter_that_goes_and_none_has_to_answer(told: Any) -> None:
    backend, handle = engines(told)
    asyncio.run(backend.forget("german@2"))
    assert (handle.told, handle.left) == (("forget", "german@2"), [])


def test_a_question_what_it_is_busy_with_is_not_left_waiting() -> None:
    backend, handle = engines(None)
    assert asyncio.run(backend.load()) is None
    assert handle.responses[0].cancelled
