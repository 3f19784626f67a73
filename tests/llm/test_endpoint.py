import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.errors import TeacherDenied, TeacherError, TeacherUnknownModel, TeacherUnreachable
from cp_ray.llm.budget import Price
from cp_ray.llm.call import Completion, Sampling, Token, Usage, failure
from cp_ray.llm.door import Door, Target
from cp_ray.llm.endpoint import Endpoint, _completion, check_teacher
from cp_ray.llm.limiter import Shown
from cp_ray.records import Message
from tests.conftest import Server

CHAT = [Message("system", "You are German."), Message("user", "Is work a duty?")]
NOWHERE = "http://127.0.0.1:9/v1"


class Noting:
    """A gate that lets everything through and notes what it is told."""

    def __init__(self) -> None:
        self.entered: list[tuple[int, float, bool]] = []
        self.left: list[tuple[float, float]] = []
        self.refusals: list[tuple[int, float | None]] = []
        self.shown: list[Shown] = []

    async def enter(self, tokens: int, most_usd: float = 0.0, *, again: bool = False) -> int:
        self.entered.append((tokens, most_usd, again))
        return 7

    def leave(self, reserved_usd: float, spent_usd: float) -> None:
        self.left.append((reserved_usd, spent_usd))

    def answered(self, seconds: float, shown: Shown | None) -> None:
        self.shown += [shown] if shown else []

    def refused(self, generation: int, wait_s: float | None, shown: Shown | None) -> None:
        self.refusals.append((generation, wait_s))


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
    price = Price(1.0, 2.0)
    assert ask(server.url, price=price) == [Completion("Ja.", "length", Usage(7, 3), 13e-6, "scripted")]


def test_what_is_asked_arrives(scripted_server: Any) -> None:
    seen: list[Any] = []

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        seen.append((list(messages), sampling))
        return "yes"

    ask(scripted_server(answer).url)
    assert seen == [(CHAT, Sampling(0.0, 20, 0))]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(scripted_server: Any, status: int) -> None:
    server, gate = scripted_server(faults=[status, status]), Noting()
    failed: list[str] = []
    answers = ask(server.url, chats=5, gate=gate, price=Price(1.0, 1.0), on_failure=failed.append)
    assert [a.finish_reason for a in answers] == ["stop"] * 5
    assert server.stats()["calls"] == 5
    assert [again for *_, again in gate.entered].count(True) == 10, "every further try goes ahead of new calls"
    assert failed == [f"status {status}"] * 10
    assert gate.refusals == ([(7, 0.02)] * 10 if status == 429 else [])
    assert len(gate.left) == 15
    assert sum(spent for _, spent in gate.left) == pytest.approx(sum(a.usd for a in answers))
    assert all(spent <= reserved for reserved, spent in gate.left), "a call never costs more than was reserved for it"


def test_what_still_fails_is_a_row_with_its_reason(scripted_server: Any) -> None:
    (answer,) = ask(scripted_server(faults=[500] * 9).url, attempts=2)
    assert answer == failure("gave up: status 500")


def test_refusals_are_no_attempts(scripted_server: Any) -> None:
    (answer,) = ask(scripted_server(faults=[429] * 12).url, attempts=2)
    assert answer.finish_reason == "stop"


def test_a_bad_request_is_a_row_and_not_the_end(scripted_server: Any) -> None:
    assert ask(scripted_server(faults=[400]).url) == [Completion("", "refused with status 400", Usage(0, 0))]


def test_a_server_that_tells_no_log_probabilities_is_asked_without() -> None:
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse

    app, asked = FastAPI(), []

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        body = await request.json()
        asked.append(body.get("top_logprobs"))
        if body.get("top_logprobs", 0) > 5:
            error = {"message": "at most 5", "param": "top_logprobs", "code": "invalid_value"}
            return JSONResponse({"error": error}, 400)
        tokens = [{"token": "yes", "logprob": -0.1, "top_logprobs": []}] if body.get("logprobs") else []
        message = {"role": "assistant", "content": "yes"}
        return {"choices": [{"message": message, "finish_reason": "stop", "logprobs": {"content": tokens}}]}

    async def run(url: str) -> list[Completion]:
        endpoint = Endpoint(url, "m", None)
        try:
            return [await endpoint(CHAT, Sampling(0.0, 20, k, logprobs=top)) for k, top in enumerate((10, 10, 5))]
        finally:
            await endpoint.close()

    with Server(app) as server:
        answers = asyncio.run(run(server.url))
    assert asked == [10, None, None, 5], "it is refused once"
    assert [(a.text, a.logprobs is None) for a in answers] == [("yes", True), ("yes", True), ("yes", False)]


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


@pytest.mark.parametrize(
    ("key", "told"),
    [("s3cret\r", r"'\r' as its character 7"), ("s3crét", r"'\xe9' as its character 5"), (" s3cret", "' ' as")],
)
def test_a_key_that_can_be_none_is_told_and_not_shown(
    scripted_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, told: str
) -> None:
    url = scripted_server().url
    monkeypatch.setenv("HELPER_KEY", key)
    helper = Door((Target(url, "scripted", key_variable="HELPER_KEY"),), str(tmp_path), "s")
    for variable, call in (
        ("OPENAI_API_KEY", lambda: check_teacher(url, "scripted", key)),
        ("HELPER_KEY", helper.open),
    ):
        with pytest.raises(TeacherDenied, match=f"^{variable}: must be printable ASCII") as raised:
            call()
        assert told in str(raised.value)
        assert "s3cr" not in str(raised.value)


def test_an_unknown_model_is_told_with_those_there_are(scripted_server: Any) -> None:
    server = scripted_server(models=["alpha", "beta"])
    with pytest.raises(TeacherUnknownModel, match="no model 'gamma'; it has alpha, beta"):
        check_teacher(server.url, "gamma", None)
    with pytest.raises(TeacherUnknownModel, match="no model 'gamma'"):
        ask(server.url, model="gamma")


def test_a_dropped_connection_and_half_an_answer_are_tried_again() -> None:
    async def run() -> tuple[Completion, int]:
        tries = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal tries
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            tries += 1
            if tries > 2:
                whole = b'{"choices":[{"message":{"content":"late"},"finish_reason":"stop"}]}'
                body = whole if tries > 3 else whole[:30]
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

    assert asyncio.run(run()) == (Completion("late", "stop", Usage(0, 0), 0.0, "m"), 4)


def served(head: bytes, body: bytes, **options: Any) -> list[Completion]:
    """One answer of a server that says just this."""

    async def run() -> list[Completion]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if head:
                writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (head, len(body), body))
                writer.close()
            else:
                await asyncio.sleep(30)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", "m", None, attempts=1, **options)
        try:
            return [await endpoint(CHAT, Sampling())]
        finally:
            await endpoint.close()
            server.close()

    return asyncio.run(run())


def test_a_hanging_server_is_given_up() -> None:
    assert served(b"", b"", timeout_s=0.2) == [failure("gave up: time-out")]


def test_half_a_surrogate_is_replaced() -> None:
    (answer,) = served(b"200 OK", b'{"choices":[{"message":{"content":"a\\ud800b"},"finish_reason":"stop"}]}')
    assert answer.text == "a?b"


@pytest.mark.parametrize(
    ("said", "text", "reason"),
    [
        ("eos", "Yes.", "stop"),
        (None, "Yes.", "stop"),
        ("length", "Yes.", "length"),
        ("eos", "", "eos"),
        ("abort", "Ye", "abort"),
        ("content_filter", "Ye", "content_filter"),
    ],
)
def test_a_server_s_own_word_for_the_end_of_an_answer_is_understood(said: str | None, text: str, reason: str) -> None:
    body = {"choices": [{"message": {"content": text}, "finish_reason": said}]}
    (answer,) = served(b"200 OK", json.dumps(body).encode())
    assert (answer.text, answer.finish_reason) == (text, reason)


def test_what_waited_long_for_its_turn_is_tried_again_as_well(
    scripted_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cp_ray.llm.endpoint._PATIENCE_S", 0.3)
    monkeypatch.setattr("cp_ray.llm.endpoint._FIRST_WAIT_S", 0.01)

    class Slow(Noting):
        async def enter(self, tokens: int, most_usd: float = 0.0, *, again: bool = False) -> int:
            await asyncio.sleep(0.0 if again else 0.5)
            return await super().enter(tokens, most_usd, again=again)

    assert [a.finish_reason for a in ask(scripted_server(faults=[503]).url, gate=Slow())] == ["stop"]


def test_limits_in_headers_are_told_once() -> None:
    gate = Noting()
    ok = b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}'
    served(b"200 OK\r\nx-ratelimit-limit-requests: 600\r\nx-ratelimit-limit-tokens: 6000", ok, gate=gate)
    assert gate.shown == [Shown(10.0, 100.0)]


@pytest.mark.parametrize(
    ("head", "body", "reason"),
    [
        (b"400 Bad", b'{"error": {"code": "content_filter", "message": "no"}}', "content_filter"),
        (b"422 Bad", b"", "refused with status 422"),
        (b"400 Bad", b'{"error": "text"}', "refused with status 400"),
    ],
)
def test_what_one_request_got_wrong_is_its_own(head: bytes, body: bytes, reason: str) -> None:
    assert served(head, body) == [failure(reason)]


@pytest.mark.parametrize(
    ("head", "body", "said"),
    [
        (b"429 No", b'{"error": {"code": "insufficient_quota"}}', "has no money left"),
        (b"429 No", b'{"error": {"code": "billing_hard_limit_reached"}}', "has no money left"),
        (b"402 Pay", b'{"error": {"message": "Insufficient Balance"}}', "has no money left; pay it up and run again"),
        (b"400 Bad", b'{"error": {"message": "unknown field response_format"}}', "run with --structured no"),
    ],
)
def test_what_no_request_would_mend_ends_the_run(head: bytes, body: bytes, said: str) -> None:
    with pytest.raises(TeacherError, match=said) as raised:
        served(head, body)
    assert "\n" not in str(raised.value)


def prefilled(answer: str, *texts: str) -> Completion:
    """What comes of an answer that a server was told, which tells the prompt's tokens so."""
    from fastapi import FastAPI, Request

    app, asked = FastAPI(), []
    places = [{str(k): {"logprob": -k, "rank": 9, "decoded_token": text}} for k, text in enumerate(texts, 1)]

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        asked.append(await request.json())
        message = {"role": "assistant", "content": "well"}
        told = [None, *places] if places else None
        return {"choices": [{"message": message, "finish_reason": "length"}], "prompt_logprobs": told}

    async def run(url: str) -> Completion:
        endpoint = Endpoint(url, "m", None)
        try:
            return await endpoint(CHAT, Sampling(0.0, 1, answer=answer, prefilled=True))
        finally:
            await endpoint.close()

    with Server(app) as server:
        found = asyncio.run(run(server.url))
    (body,) = asked
    assert body["messages"][-1] == {"role": "assistant", "content": answer}
    assert (body["add_generation_prompt"], body["prompt_logprobs"], body["max_tokens"]) == (False, 0, 1)
    return found


def test_an_answer_in_the_prompt_is_told_up_to_the_end_of_its_turn() -> None:
    found = prefilled("Very good", "user", "Very", " good", "<|end|>", "\n")
    assert (found.text, found.logprobs) == ("Very good", tuple(Token(str(k), -k) for k in range(1, 5)))
    letters = prefilled("好", "\ufffd", "\ufffd", "<|end|>")
    assert (letters.text, letters.logprobs) == ("好", tuple(Token(str(k), -k) for k in range(1, 4)))
    for texts in (("user", "Very", " good"), ("user", "<|end|>"), ()):
        lacking = prefilled("Very good", *texts)
        assert (lacking.text, lacking.logprobs) == ("well", None), "without its end, without it, or without any"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_whatever_a_server_sends_is_an_answer_or_none(body: bytes) -> None:
    found = _completion(body, "m", None, None)
    assert found is None or isinstance(found.text, str)


PLACES = st.fixed_dictionaries({"logprob": JSON | st.just(-1.0), "decoded_token": JSON | st.sampled_from(["Yes", "."])})


@given(JSON | st.lists(st.none() | st.dictionaries(st.text(max_size=2), PLACES, max_size=2), max_size=4))
def test_whatever_a_server_tells_of_a_prompt_is_an_answer_or_none(told: Any) -> None:
    reply = {"choices": [{"message": {"content": "x"}}], "prompt_logprobs": told}
    found = _completion(json.dumps(reply).encode(), "m", None, "Yes")
    assert found is None or found.text in ("x", "Yes")
