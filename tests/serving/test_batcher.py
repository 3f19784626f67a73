import asyncio
import threading
from collections.abc import Sequence

import pytest

from cp_ray.errors import ConfigError
from cp_ray.records import Message
from cp_ray.serving.batcher import Batcher
from cp_ray.serving.chat import BadRequest, ChatRequest, ChatResult


def ask(text: str) -> ChatRequest:
    return ChatRequest("m", (Message("user", text),))


class Echo:
    """Answers with the question, notes its waves; some questions are bad, some break the wave."""

    def __init__(self) -> None:
        self.waves: list[list[str]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, requests: Sequence[ChatRequest]) -> list[ChatResult | BadRequest]:
        texts = [r.messages[0].content for r in requests]
        self.waves.append(texts)
        self.go.wait(30)
        if "break" in texts:
            raise RuntimeError("out of memory")
        return [BadRequest("bad") if t == "bad" else ChatResult(t, "stop", 1, 1) for t in texts]


def run(batcher: Batcher, texts: Sequence[str]) -> list[ChatResult | BaseException]:
    async def together() -> list[ChatResult | BaseException]:
        return await asyncio.gather(*(batcher.complete(ask(t)) for t in texts), return_exceptions=True)

    return asyncio.run(together())


def test_requests_that_wait_are_answered_in_waves_of_the_size_allowed() -> None:
    echo = Echo()
    texts = [str(i) for i in range(7)]
    results = run(Batcher(echo, max_wave=3), texts)
    assert [r.text for r in results if isinstance(r, ChatResult)] == texts
    assert echo.waves == [["0", "1", "2"], ["3", "4", "5"], ["6"]]


def test_a_bad_request_leaves_its_neighbours_alone() -> None:
    results = run(Batcher(Echo()), ["a", "bad", "b"])
    assert [type(r) for r in results] == [ChatResult, BadRequest, ChatResult]


def test_an_exception_fails_its_own_wave_only() -> None:
    results = run(Batcher(Echo(), max_wave=2), ["a", "break", "b", "c"])
    assert [type(r) for r in results] == [RuntimeError, RuntimeError, ChatResult, ChatResult]
    assert str(results[0]) == "out of memory"


def test_nothing_is_computed_for_a_client_that_has_gone() -> None:
    echo = Echo()
    echo.go.clear()
    batcher = Batcher(echo, wait_s=0)

    async def leave() -> ChatResult:
        first = asyncio.create_task(batcher.complete(ask("first")))
        while not echo.waves:
            await asyncio.sleep(0)
        gone, stays = (asyncio.create_task(batcher.complete(ask(t))) for t in ("gone", "stays"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        echo.go.set()
        await first
        return await stays

    assert asyncio.run(leave()).text == "stays"
    assert echo.waves == [["first"], ["stays"]]


def test_a_wave_holds_at_least_one() -> None:
    with pytest.raises(ConfigError, match="max_wave"):
        Batcher(Echo(), max_wave=0)
