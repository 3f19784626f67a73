"""Who is asked when the first one has no answer."""

import asyncio
import functools
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cp_ray.errors import TeacherUnreachable
from cp_ray.llm import batch, batch_provider
from cp_ray.llm.batch import BatchEndpoint, ProviderName
from cp_ray.llm.call import Completion, Sampling
from cp_ray.llm.control import Rules, control
from cp_ray.llm.door import Door, Target
from cp_ray.llm.limiter import Limits
from cp_ray.llm.scripted_batch import BatchFaults, scripted_batch_app
from cp_ray.records import Message
from tests.conftest import Server
from tests.llm.batched_dialogues import FAST

Ask = Callable[..., list[Completion]]


@pytest.fixture(params=["openai", "anthropic"])
def ask(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Three chats to a teacher behind a batch interface with these faults, and to these who are asked after it."""
    provider: ProviderName = request.param
    monkeypatch.setattr("cp_ray.llm.batch.BatchEndpoint", functools.partial(BatchEndpoint, **FAST))
    monkeypatch.setattr(batch_provider, "_FIRST_WAIT_S", 0.01)
    for module in (batch, batch_provider):
        monkeypatch.setattr(module, "ATTEMPTS", 2)

    async def through(targets: tuple[Target, ...]) -> list[Completion]:
        door = Door(targets, str(tmp_path), "s").open()
        chats = [[Message("user", f"Question {number}?")] for number in range(3)]
        try:
            return await asyncio.gather(*(door(chat, Sampling(0.5, 50)) for chat in chats))
        finally:
            await door.close()

    with ExitStack() as stack:

        def start(faults: BatchFaults, *fallbacks: Target) -> list[Completion]:
            server = stack.enter_context(Server(scripted_batch_app(lambda *_: "first", faults=faults)))
            return asyncio.run(through((Target(server.url, "scripted", batch=provider), *fallbacks)))

        yield start


@pytest.mark.parametrize(
    "faults",
    [BatchFaults(overloaded=99), BatchFaults(expired=99), BatchFaults(failed=99), BatchFaults(statuses=(503,) * 99)],
    ids=["requests get 503", "requests expire", "batches fail", "polls get 503"],
)
def test_where_batches_come_to_no_answer_the_fallback_is_asked(
    ask: Ask, scripted_server: Any, faults: BatchFaults
) -> None:
    helping = scripted_server(lambda *_: "second", models=["other"])
    answers = ask(faults, Target(helping.url, "other"))
    assert [(a.text, a.model) for a in answers] == [("second", "other")] * 3
    assert helping.stats()["calls"] == 3


def test_what_batches_cannot_do_now_is_told_where_nobody_else_is_asked(ask: Ask) -> None:
    with pytest.raises(TeacherUnreachable, match=r"answered 2 times with status 503; wait, and run again"):
        ask(BatchFaults(statuses=(503,) * 99))
    assert all(a.finish_reason.startswith("gave up: ") and "tried 3×" in a.finish_reason
               for a in ask(BatchFaults(expired=99)))  # fmt: skip


def test_what_a_request_got_wrong_is_asked_of_nobody_else(ask: Ask, scripted_server: Any) -> None:
    helping = scripted_server(lambda *_: "second", models=["other"])
    answers = ask(BatchFaults(invalid=lambda messages: "1" in messages[-1].content), Target(helping.url, "other"))
    assert [a.text for a in answers] == ["first", "", "first"]
    assert answers[1].finish_reason.startswith("refused ")
    assert helping.stats()["calls"] == 0


def test_batches_go_out_whole_whatever_a_minute_s_limit(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cp_ray.llm.batch.BatchEndpoint", functools.partial(BatchEndpoint, **FAST))
    server = Server(scripted_batch_app(lambda *_: "first"))

    async def run() -> None:
        target = Target(server.url, "scripted", batch="openai")
        door = Door((target,), str(tmp_path), "s", control=control(Rules()), limits=Limits(rpm=120)).open()
        chats = [[Message("user", f"Question {number}?")] for number in range(12)]
        await asyncio.gather(*(door(chat, Sampling(0.5, 50)) for chat in chats))
        await door.close()

    with server:
        asyncio.run(run())
        assert server.stats()["batches"] == [12]
