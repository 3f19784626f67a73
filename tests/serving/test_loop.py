import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from cp_ray.records import Message
from cp_ray.serving.chat import BadRequest, ChatRequest, ChatResult, whole
from cp_ray.serving.engine import Engine
from cp_ray.serving.loop import EngineLoop
from tests.tiny import make_adapter, make_base


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    root = tmp_path_factory.mktemp("loop")
    base = make_base(root / "base")
    return Engine(str(base), {"base": None, "german": make_adapter(base, root / "german", 1)}, dtype="float32")


@pytest.fixture
def loop(engine: Engine) -> Iterator[EngineLoop]:
    """Closed with the test: an engine is stepped by one thread, and after its last piece a loop has a step to make."""
    loop = EngineLoop(engine)
    yield loop
    loop.close()


def ask(text: str, model: str = "base", **options: Any) -> ChatRequest:
    return ChatRequest(model, (Message("user", text),), **({"max_tokens": 8} | options))


async def complete(loop: EngineLoop, request: ChatRequest) -> ChatResult:
    return whole([piece async for piece in loop.stream(request)])


def together(loop: EngineLoop, *requests: ChatRequest) -> list[ChatResult | BaseException]:
    async def gather() -> list[ChatResult | BaseException]:
        return await asyncio.gather(*(complete(loop, r) for r in requests), return_exceptions=True)

    return asyncio.run(gather())


def test_answers_are_those_of_the_engine(engine: Engine, loop: EngineLoop) -> None:
    requests = [ask(f"question {k}", model) for k in range(5) for model in ("base", "german")]
    answers = together(loop, *requests)
    loop.close()
    assert answers == engine.generate(requests)


def test_a_bad_request_leaves_its_neighbours_alone(loop: EngineLoop) -> None:
    kinds = [type(r) for r in together(loop, ask("a"), ask("b", "klingon"), ask("c"))]
    assert kinds == [ChatResult, BadRequest, ChatResult]


def test_a_stream_s_pieces_make_up_the_answer(loop: EngineLoop) -> None:
    async def pieces() -> list[Any]:
        return [piece async for piece in loop.stream(ask("tell me", max_tokens=20))]

    got = asyncio.run(pieces())
    assert len(got) > 5
    assert [bool(p.finish_reason) for p in got] == [False] * (len(got) - 1) + [True]
    assert [whole(got)] == together(loop, ask("tell me", max_tokens=20))


def test_a_step_has_its_threads_and_all_else_computes_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    before, step, seen = torch.get_num_threads(), engine.step, set()

    def counted() -> bool:
        more = step()
        seen.add(torch.get_num_threads())
        return more

    monkeypatch.setattr(engine, "step", counted)
    loop = EngineLoop(engine, before + 1)
    try:
        together(loop, ask("hi"))
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == 1
    finally:
        loop.close()
        torch.set_num_threads(before)
    assert seen == {before + 1}


def test_nothing_is_computed_for_a_client_that_has_gone(engine: Engine, loop: EngineLoop) -> None:
    long = ask("tell me", max_tokens=200, temperature=1.0)

    async def leave() -> None:
        stream = loop.stream(long)
        await anext(stream)
        assert loop.load.rows == 1
        await stream.aclose()  # type: ignore[attr-defined]
        while loop.load.rows:
            await asyncio.sleep(0.001)

    asyncio.run(leave())
    assert engine._prefixes is not None
    kept = [len(known.ids) for known in engine._prefixes._kept.values()]
    assert max(kept) < 150  # a whole answer would have left its 200 tokens there


def test_who_comes_later_is_answered_beside_who_is_there(engine: Engine, loop: EngineLoop) -> None:
    async def run() -> list[str]:
        order = []

        async def one(name: str, request: ChatRequest) -> None:
            await complete(loop, request)
            order.append(name)

        long = asyncio.create_task(one("long", ask("long", max_tokens=200)))
        while not engine._rows:
            await asyncio.sleep(0.001)
        await asyncio.gather(long, one("short", ask("short", max_tokens=2)))
        return order

    assert asyncio.run(run()) == ["short", "long"]


def test_a_step_that_fails_fails_its_requests_and_the_next_are_answered(
    engine: Engine, loop: EngineLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise MemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_pass", broken)
        results = together(loop, ask("a"), ask("b"))
    assert [type(r) for r in results] == [MemoryError, MemoryError]
    assert isinstance(together(loop, ask("a"))[0], ChatResult)
