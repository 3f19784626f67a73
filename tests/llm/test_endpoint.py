import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cp_ray.errors import TeacherDenied, TeacherError, TeacherUnknownModel, TeacherUnreachable
from cp_ray.llm.call import Completion, Sampling, Usage
from cp_ray.llm.endpoint import Endpoint, check_teacher
from cp_ray.records import Message

CHAT = [Message("system", "You are German."), Message("user", "Is work a duty?")]
NOWHERE = "http://127.0.0.1:9/v1"


class Holding:
    """A limiter that only notes what it is told."""

    def __init__(self) -> None:
        self.acquired: list[int] = []
        self.settled: list[tuple[int, int]] = []
        self.paused: list[float] = []

    async def acquire(self, tokens: int) -> None:
        self.acquired.append(tokens)

    def settle(self, estimated: int, used: int) -> None:
        self.settled.append((estimated, used))

    def pause(self, seconds: float) -> None:
        self.paused.append(seconds)


def ask(url: str, model: str = "scripted", chats: int = 1, **options: Any) -> list[Completion]:
    async def run() -> list[Completion]:
        endpoint = Endpoint(url, model, options.pop("key", None), **options)
        try:
            return await asyncio.gather(*(endpoint(CHAT, Sampling(0.0, 20, seed)) for seed in range(chats)))
        finally:
            await endpoint.close()

    return asyncio.run(run())


def test_an_answer_comes_whole(scripted_server: Any) -> None:
    server = scripted_server(lambda messages, sampling: Completion("Ja.", "length", Usage(7, 3)))
    assert ask(server.url) == [Completion("Ja.", "length", Usage(7, 3))]


def test_what_is_asked_arrives(scripted_server: Any) -> None:
    seen: list[Any] = []

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        seen.append((list(messages), sampling))
        return "yes"

    ask(scripted_server(answer).url)
    assert seen == [(CHAT, Sampling(0.0, 20, 0))]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(scripted_server: Any, status: int) -> None:
    server, limiter = scripted_server(faults=[status, status]), Holding()
    answers = ask(server.url, chats=5, limiter=limiter)
    assert [a.finish_reason for a in answers] == ["stop"] * 5
    assert server.stats()["calls"] == 5
    assert len(limiter.acquired) == 15, "every try takes its turn"
    assert len(limiter.settled) == 5, "only answers are settled"
    assert limiter.paused == ([0.02] * 10 if status == 429 else [])


def test_it_gives_up_in_one_line(scripted_server: Any) -> None:
    with pytest.raises(TeacherError, match="answered 2 times with status 500") as raised:
        ask(scripted_server(faults=[500] * 9).url, attempts=2)
    assert "\n" not in str(raised.value)


def test_a_bad_request_is_a_row_and_not_the_end(scripted_server: Any) -> None:
    assert ask(scripted_server(faults=[400]).url) == [Completion("", "refused with status 400", Usage(0, 0))]


def test_nobody_there(scripted_server: Any) -> None:
    with pytest.raises(TeacherUnreachable, match=r"nothing answers at http://127\.0\.0\.1:9/v1"):
        ask(NOWHERE, attempts=1)
    with pytest.raises(TeacherUnreachable, match="start the server or correct --teacher-url"):
        check_teacher(NOWHERE, "scripted", None)


def test_a_wrong_key_is_told_and_not_shown(scripted_server: Any) -> None:
    server = scripted_server(key="right")
    for call in (lambda: ask(server.url, key="s3cret"), lambda: check_teacher(server.url, "scripted", "s3cret")):
        with pytest.raises(TeacherDenied, match="refuses the key") as raised:
            call()
        assert "s3cret" not in str(raised.value)
    check_teacher(server.url, "scripted", "right")
    assert ask(server.url, key="right")[0].finish_reason == "stop"


def test_an_unknown_model_is_told_with_those_there_are(scripted_server: Any) -> None:
    server = scripted_server(models=["alpha", "beta"])
    with pytest.raises(TeacherUnknownModel, match="no model 'gamma'; it has alpha, beta"):
        check_teacher(server.url, "gamma", None)
    with pytest.raises(TeacherUnknownModel, match="no model 'gamma'"):
        ask(server.url, model="gamma")


def test_a_dropped_connection_is_tried_again() -> None:
    async def run() -> tuple[Completion, int]:
        tries = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal tries
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            tries += 1
            if tries > 2:
                body = b'{"choices":[{"message":{"content":"late"},"finish_reason":"stop"}]}'
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n")
                writer.write(b"content-length: %d\r\n\r\n%s" % (len(body), body))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", "m", None)
        answer = await endpoint(CHAT, Sampling())
        await endpoint.close()
        server.close()
        return answer, tries

    assert asyncio.run(run()) == (Completion("late", "stop", Usage(0, 0)), 3)
