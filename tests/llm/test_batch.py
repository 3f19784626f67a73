import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cp_ray.errors import (
    ConfigError,
    RunFolderError,
    TeacherDenied,
    TeacherError,
    TeacherUnknownModel,
    TeacherUnreachable,
)
from cp_ray.llm import batch, batch_provider
from cp_ray.llm.batch import BatchEndpoint, ProviderName
from cp_ray.llm.batch_anthropic import AnthropicBatches
from cp_ray.llm.batch_openai import OpenAIBatches
from cp_ray.llm.batch_records import BatchRecords, Sent
from cp_ray.llm.call import Completion, Sampling, Token, Usage, request_key
from cp_ray.llm.scripted_batch import BatchFaults, scripted_batch_app
from cp_ray.recipe import load_recipe, parse_recipe
from cp_ray.records import Message
from tests.conftest import Server
from tests.llm.batched_dialogues import FAST, talk

PROVIDERS: tuple[ProviderName, ...] = ("openai", "anthropic")
MOMENTS = (
    "before it is created",
    "before its id is recorded",
    "while polling",
    "before its answers are used",
)

Start = Callable[..., Server]

pytestmark = pytest.mark.parametrize("provider", PROVIDERS)


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(Server(scripted_batch_app(*args, **options)))


def chats(count: int) -> list[list[Message]]:
    return [[Message("user", f"Question {number}?")] for number in range(count)]


def ask(
    provider: ProviderName, url: str, root: Path, asked: Sequence[Sequence[Message]], **options: Any
) -> list[Completion]:
    async def run() -> list[Completion]:
        model, key = options.pop("model", "scripted"), options.pop("key", None)
        sampling = options.pop("sampling", Sampling(0.5, 50))
        endpoint = BatchEndpoint(provider, url, model, key, str(root), **(FAST | options))
        try:
            return await asyncio.gather(*(endpoint(chat, sampling) for chat in asked))
        finally:
            await endpoint.close()

    return asyncio.run(run())


def echo(messages: Sequence[Message], sampling: Sampling) -> str:
    return f"To: {messages[-1].content}"


def test_a_batch_for_each_turn(provider: ProviderName, start: Start, tmp_path: Path) -> None:
    server = start(delay_s=0.1)
    answers = talk(provider, server.url, str(tmp_path))
    stats = server.stats()
    assert stats["batches"] == [30, 30, 30]
    assert set(stats["requests"].values()) == {1}
    assert [len(a) for a in answers] == [3] * 30
    replayed = talk(provider, server.url, str(tmp_path))
    assert [[a.text for a in held] for held in replayed] == [[a.text for a in held] for held in answers]
    assert server.stats()["batches"] == [30, 30, 30]


def test_answers_find_their_questions(provider: ProviderName, start: Start, tmp_path: Path) -> None:
    answers = ask(provider, start(echo).url, tmp_path, chats(40))
    assert [a.text for a in answers] == [f"To: Question {number}?" for number in range(40)]
    assert {a.finish_reason for a in answers} == {"stop"}
    assert all(a.usage.prompt_tokens > 0 and a.usage.completion_tokens > 0 for a in answers)


def test_half_a_surrogate_is_replaced(provider: ProviderName, start: Start, tmp_path: Path) -> None:
    (answer,) = ask(provider, start(lambda *_: "abc \ud83d").url, tmp_path, chats(1))
    assert answer.text == "abc ?"


def test_a_provider_s_own_word_for_the_end_of_an_answer_is_understood(
    provider: ProviderName, start: Start, tmp_path: Path
) -> None:
    made = Completion("Well", "eos", Usage(7, 3))
    (answer,) = ask(provider, start(lambda *_: made).url, tmp_path, chats(1))
    assert (answer.text, answer.finish_reason) == ("Well", "stop")


@pytest.mark.parametrize("untold", [False, True])
def test_log_probabilities_are_asked_for_where_they_are_told(
    provider: ProviderName, start: Start, tmp_path: Path, untold: bool
) -> None:
    told = (Token("Ja", -0.25, (("Ja", -0.25), ("Nein", -1.5))),)

    def answer(messages: Sequence[Message], sampling: Sampling) -> Completion:
        return Completion("Ja", "stop", Usage(7, 3), logprobs=told if sampling.logprobs == 2 else None)

    server = start(answer, faults=BatchFaults(untold=untold))
    answers = ask(provider, server.url, tmp_path, chats(2), sampling=Sampling(0.5, 50, logprobs=2))
    tells = provider == "openai" and not untold  # Anthropic's have none
    assert [(a.text, a.logprobs) for a in answers] == [("Ja", told if tells else None)] * 2
    assert server.stats()["batches"] == ([2, 2] if provider == "openai" and untold else [2])


@pytest.mark.parametrize("reason", ["length", "refusal"])
def test_an_answer_says_how_it_ended(provider: ProviderName, start: Start, tmp_path: Path, reason: str) -> None:
    made = Completion("Well", reason, Usage(7, 3))
    assert ask(provider, start(lambda messages, sampling: made).url, tmp_path, chats(1)) == [made]


def test_what_is_asked_arrives(provider: ProviderName, start: Start, tmp_path: Path) -> None:
    seen: list[Any] = []

    def answer(messages: Sequence[Message], sampling: Sampling) -> str:
        seen.append((list(messages), sampling.max_tokens))
        return "yes"

    chat = [Message("system", "You are German."), Message("user", "Is work a duty?"), Message("user", "Say why.")]
    assert ask(provider, start(answer).url, tmp_path, [chat])[0].text == "yes"
    merged = [chat[0], Message("user", "Is work a duty?\n\nSay why.")]
    assert seen == [(chat if provider == "openai" else merged, 50)]


def test_the_same_request_shares_an_entry(provider: ProviderName, start: Start, tmp_path: Path) -> None:
    server = start(echo)
    assert len(set(ask(provider, server.url, tmp_path, chats(1) * 5))) == 1
    assert server.stats()["batches"] == [1]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_pays_for_nothing_twice(provider: ProviderName, start: Start, tmp_path: Path, moment: str) -> None:
    server = start(delay_s=0.1)
    command = [sys.executable, "-m", "tests.llm.batched_dialogues", provider, server.url, str(tmp_path), moment]
    assert subprocess.run(command, check=False).returncode == -9
    before = server.stats()
    assert before["batches"] == ([] if moment == MOMENTS[0] else [6])
    answers = talk(provider, server.url, str(tmp_path), dialogues=6, turns=2)
    stats = server.stats()
    assert stats["batches"] == [6, 6]
    assert set(stats["requests"].values()) == {1}
    assert all(a.finish_reason == "stop" for dialogue in answers for a in dialogue)


def test_a_lost_answer_to_a_creation_is_looked_into(provider: ProviderName, start: Start, tmp_path: Path) -> None:
    server = start(echo, faults=BatchFaults(lost=1))
    assert len(ask(provider, server.url, tmp_path, chats(3))) == 3
    assert server.stats()["batches"] == [3]


def test_a_batch_of_others_is_not_taken_for_ours(provider: ProviderName, start: Start, tmp_path: Path) -> None:
    server = start(echo)
    ask(provider, server.url, tmp_path / "others", chats(3))
    ours = [[Message("user", f"Ours {number}?")] for number in range(3)]
    keys = tuple(request_key("scripted", chat, Sampling(0.5, 50)) for chat in ours)
    records = BatchRecords(str(tmp_path / "ours"))
    records.write(Sent("d" * 32, provider, server.url, "scripted", keys, time.time()))
    assert [a.text for a in ask(provider, server.url, tmp_path / "ours", ours)] == [f"To: Ours {n}?" for n in range(3)]
    assert server.stats()["batches"] == [3, 3]


def test_what_expired_is_sent_again(provider: ProviderName, start: Start, tmp_path: Path) -> None:
    server = start(echo, faults=BatchFaults(expired=2, overloaded=1))
    answers = ask(provider, server.url, tmp_path, chats(6))
    assert {a.finish_reason for a in answers} == {"stop"}
    assert server.stats()["batches"] == [6, 3]
    assert set(server.stats()["requests"].values()) == {1}


def test_what_keeps_expiring_becomes_a_reason(provider: ProviderName, start: Start, tmp_path: Path) -> None:
    server = start(echo, faults=BatchFaults(expired=99))
    answers = ask(provider, server.url, tmp_path, chats(2), tries=2)
    told = f"gave up: batch{'_' if provider == 'openai' else ' '}expired, tried 2×"
    assert answers == [Completion("", told, Usage(0, 0))] * 2
    assert server.stats()["batches"] == [2, 2]


def test_a_failed_batch_is_sent_again(provider: ProviderName, start: Start, tmp_path: Path) -> None:
    server = start(echo, faults=BatchFaults(failed=1))
    assert {a.finish_reason for a in ask(provider, server.url, tmp_path, chats(3))} == {"stop"}
    assert server.stats()["batches"] == [3, 3]
    told = {a.finish_reason for a in ask(provider, start(faults=BatchFaults(failed=9)).url, tmp_path, chats(3))}
    assert told == {
        f"gave up: {'batch failed: token_limit_exceeded' if provider == 'openai' else 'batch canceled'}, tried 3×"
    }


def test_a_request_that_is_not_allowed_is_a_row(provider: ProviderName, start: Start, tmp_path: Path) -> None:
    server = start(echo, faults=BatchFaults(invalid=lambda messages: "1" in messages[-1].content))
    answers = ask(provider, server.url, tmp_path, chats(3))
    told = "refused with status 400" if provider == "openai" else "refused as invalid_request_error"
    assert [a.finish_reason for a in answers] == ["stop", told, "stop"]
    assert server.stats()["batches"] == [3], "it would be refused again"


def test_polls_are_patient(
    provider: ProviderName, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_provider, "_FIRST_WAIT_S", 0.05)
    server = start(echo, faults=BatchFaults(statuses=(500, 429, 503)))
    assert ask(provider, server.url, tmp_path, chats(1))[0].finish_reason == "stop"
    assert server.stats()["polls"] >= 4


def test_many_calls_are_cut_into_batches(provider: ProviderName, start: Start, tmp_path: Path) -> None:
    server = start(echo, most=8)
    assert {a.finish_reason for a in ask(provider, server.url, tmp_path, chats(20), largest=8)} == {"stop"}
    assert sorted(server.stats()["batches"]) == [4, 8, 8]
    server = start(echo, most_bytes=5_000)
    long = [[Message("user", f"{number}" + "x" * 980)] for number in range(7)]
    assert {a.finish_reason for a in ask(provider, server.url, tmp_path, long, largest_bytes=4_000)} == {"stop"}
    assert sorted(server.stats()["batches"]) == [1, 3, 3]


def test_a_batch_that_is_too_large_is_halved(provider: ProviderName, start: Start, tmp_path: Path) -> None:
    server = start(echo, most_bytes=2_500)
    asked = [*chats(8), [Message("user", "x" * 2_500)]]
    answers = ask(provider, server.url, tmp_path, asked)
    assert [a.finish_reason for a in answers] == ["stop"] * 8 + ["refused with status 413"]
    assert set(server.stats()["requests"].values()) == {1}


def test_a_batch_that_is_not_taken_is_told(provider: ProviderName, start: Start, tmp_path: Path) -> None:
    if provider == "anthropic":
        with pytest.raises(TeacherError, match=r"does not take the batch .refused with status 400") as raised:
            ask(provider, start(most=2).url, tmp_path, chats(3))
        assert "\n" not in str(raised.value)
    else:  # finds out afterwards
        answers = ask(provider, start(most=2).url, tmp_path, chats(3), tries=1)
        assert {a.finish_reason for a in answers} == {"gave up: batch failed: too_many_tasks, tried 1×"}


def test_nobody_there(provider: ProviderName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (batch, batch_provider):
        monkeypatch.setattr(module, "ATTEMPTS", 1)
    with pytest.raises(TeacherUnreachable, match=r"nothing answers at http://127\.0\.0\.1:9/v1; correct --teacher-url"):
        ask(provider, "http://127.0.0.1:9/v1", tmp_path, chats(2))


def test_a_wrong_key_is_told_and_not_shown(provider: ProviderName, start: Start, tmp_path: Path) -> None:
    server = start(key="right")
    with pytest.raises(
        TeacherDenied, match=f"refuses the key; put the right one into {provider.upper()}_API_KEY"
    ) as at:
        ask(provider, server.url, tmp_path, chats(2), key="s3cret")
    assert "s3cret" not in str(at.value)
    assert "\n" not in str(at.value)
    assert ask(provider, server.url, tmp_path, chats(2), key="right")[0].finish_reason == "stop"
    assert not any("right" in file.read_text() for file in tmp_path.rglob("*.json"))


def test_an_unknown_model_is_told(provider: ProviderName, start: Start, tmp_path: Path) -> None:
    with pytest.raises(TeacherUnknownModel, match="no model 'gamma'; correct --teacher-model"):
        ask(provider, start().url, tmp_path, chats(2), model="gamma")


def test_a_server_without_batches_is_told(provider: ProviderName, scripted_server: Any, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="has no batch interface"):
        ask(provider, scripted_server().url, tmp_path, chats(2))


def test_a_damaged_record_is_told(provider: ProviderName, start: Start, tmp_path: Path) -> None:
    (tmp_path / "ledger-batches").mkdir()
    (tmp_path / "ledger-batches" / "x.json").write_text('{"digest": ')
    with pytest.raises(RunFolderError, match=r"x\.json is damaged"):
        ask(provider, start().url, tmp_path, chats(2))


def test_records_may_be_anywhere(provider: ProviderName, tmp_path: Path) -> None:
    records = BatchRecords(f"file://{tmp_path}/run")
    assert records.read() == []
    late, early = (Sent(c * 32, provider, "http://x/v1", "m", ("k",), t) for c, t in (("a", 2.0), ("b", 1.0)))
    records.write(late)
    records.write(early)
    assert records.read() == [early, late]


def test_an_answer_schema_is_sent(provider: ProviderName) -> None:
    @dataclass(frozen=True)
    class WithSchema(Sampling):
        schema: str = '{"type":"object"}'

    batches = OpenAIBatches if provider == "openai" else AnthropicBatches
    line = json.loads(asyncio.run(_line(batches, WithSchema(2.0))))
    if provider == "openai":
        told = line["body"]["response_format"]
        assert told == {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": {"type": "object"}},
        }
    else:
        assert line["params"]["output_config"] == {"format": {"type": "json_schema", "schema": {"type": "object"}}}
        assert line["params"]["temperature"] == 1.0


async def _line(batches: Any, sampling: Sampling) -> bytes:
    provider = batches("http://x/v1", "m", None)
    try:
        made: bytes = provider.line("k", chats(1)[0], sampling)
        return made
    finally:
        await provider.close()


def test_a_margin_is_asked_for_only_where_log_probabilities_are_told(provider: ProviderName, tmp_path: Path) -> None:
    recipe = load_recipe(str(Path(__file__).parents[2] / "jobs" / "culturepark.py"))
    told = ["--root", str(tmp_path), "--teacher-url", "http://x/v1", "--batch", provider, "--min-margin", "0.2"]
    refused = pytest.raises(ConfigError, match=r"^min-margin: anthropic's batches tell no log-probabilities")
    with refused if provider == "anthropic" else contextlib.nullcontext():
        parse_recipe(recipe, told, "test")


def test_another_provider_is_told(provider: ProviderName, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be openai or anthropic"):
        BatchEndpoint("other", "http://x/v1", "m", None, str(tmp_path))  # type: ignore[arg-type]
