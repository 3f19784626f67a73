import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.errors import RunFolderError, TeacherError
from cp_ray.llm.call import Completion, Sampling, Usage, request_key
from cp_ray.llm.ledger import Ledger, summary
from cp_ray.records import Message

ANSWER = Completion("Ja.\nüber 日本 \u2028", "stop", Usage(5, 2))


def paying(answer: Completion | Exception, calls: list[int], wait: float = 0.0):  # type: ignore[no-untyped-def]
    async def call() -> Completion:
        calls.append(1)
        await asyncio.sleep(wait)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return call


def test_an_answer_is_paid_once_and_replayed_by_the_next_writer(tmp_path: Path) -> None:
    calls: list[int] = []

    async def run() -> list[tuple[Completion, bool]]:
        ledger = Ledger(str(tmp_path), "dialogue", "m")
        return [await ledger.get_or_call("k1", paying(ANSWER, calls)) for _ in range(2)]

    assert asyncio.run(run()) == [(ANSWER, True), (ANSWER, False)]
    assert asyncio.run(run()) == [(ANSWER, False)] * 2
    assert len(calls) == 1


def test_it_is_on_disk_before_it_is_given_out(tmp_path: Path) -> None:
    async def run() -> None:
        ledger = Ledger(str(tmp_path), "s", "m")
        for k in range(5):
            await ledger.get_or_call(f"k{k}", paying(ANSWER, []))
            lines = [line for file in (tmp_path / "ledger").iterdir() for line in file.read_text().split("\n")[:-1]]
            assert [json.loads(line)["key"] for line in lines] == [f"k{j}" for j in range(k + 1)]

    asyncio.run(run())


def test_the_same_request_at_the_same_time_is_one_call(tmp_path: Path) -> None:
    calls: list[int] = []

    async def run() -> list[tuple[Completion, bool]]:
        ledger = Ledger(str(tmp_path), "s", "m")
        return await asyncio.gather(*(ledger.get_or_call("k", paying(ANSWER, calls, 0.01)) for _ in range(10)))

    assert [paid for _, paid in asyncio.run(run())] == [True] + [False] * 9
    assert len(calls) == 1


@pytest.mark.parametrize("failure", [TeacherError("down"), Completion("", "refused with status 400", Usage(0, 0))])
def test_a_failure_is_never_kept_as_an_answer(tmp_path: Path, failure: Exception | Completion) -> None:
    async def run() -> bool:
        ledger = Ledger(str(tmp_path), "s", "m")
        if isinstance(failure, Exception):
            with pytest.raises(TeacherError):
                await ledger.get_or_call("k", paying(failure, []))
        else:
            assert await ledger.get_or_call("k", paying(failure, [])) == (failure, True)
        return (await ledger.get_or_call("k", paying(ANSWER, [])))[1]

    assert asyncio.run(run()) is True


def test_a_torn_last_line_is_no_answer_and_a_damaged_line_is_told(tmp_path: Path) -> None:
    async def pay(key: str) -> bool:
        return (await Ledger(str(tmp_path), "s", "m").get_or_call(key, paying(ANSWER, [])))[1]

    asyncio.run(pay("k1"))
    file = next((tmp_path / "ledger").iterdir())
    whole = file.read_bytes()
    for cut in range(1, len(whole)):
        file.write_bytes(whole + whole[:cut].replace(b"k1", b"k2"))
        if not whole[:cut].endswith(b"\n"):
            assert summary(str(tmp_path))[0].calls == 1
    file.write_bytes(whole + b'{"key": "broken"\n' + whole)
    with pytest.raises(RunFolderError, match=r"line 2 is damaged"):
        summary(str(tmp_path))


def test_totals_by_step(tmp_path: Path) -> None:
    async def run() -> None:
        for step, keys in (("dialogue", "abc"), ("verify", "de")):
            ledger = Ledger(str(tmp_path), step, "m")
            await asyncio.gather(*(ledger.get_or_call(k, paying(ANSWER, [])) for k in keys))

    asyncio.run(run())
    found = {t.step: (t.calls, t.prompt_tokens, t.completion_tokens) for t in summary(str(tmp_path))}
    assert found == {"dialogue": (3, 15, 6), "verify": (2, 10, 4)}
    assert summary(str(tmp_path / "nothing")) == []


def test_nothing_that_was_given_out_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
from cp_ray.llm.call import Completion, Usage
from cp_ray.llm.ledger import Ledger
async def main():
    ledger = Ledger({str(tmp_path)!r}, "s", "m")
    async def one(k):
        async def call():
            return Completion(str(k), "stop", Usage(1, 1))
        await ledger.get_or_call(f"k{{k}}", call)
        print(k, flush=True)
    for start in range(0, 100000, 16):
        await asyncio.gather(*(one(k) for k in range(start, start + 16)))
asyncio.run(main())
"""
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    given_out = [writer.stdout.readline().strip() for _ in range(200)]
    time.sleep(0.05)
    writer.kill()
    given_out += writer.stdout.read().split("\n")[:-1]
    writer.wait()
    calls: list[int] = []

    async def replay() -> list[str]:
        ledger = Ledger(str(tmp_path), "s", "m")
        return [(await ledger.get_or_call(f"k{k}", paying(ANSWER, calls)))[0].text for k in given_out]

    assert asyncio.run(replay()) == given_out
    assert calls == []


@given(st.data())
def test_a_key_is_the_request_and_nothing_else(data: st.DataObject) -> None:
    texts = st.text(max_size=8)
    requests = st.tuples(
        texts,
        st.lists(st.builds(Message, st.sampled_from(["system", "user"]), texts), max_size=3),
        st.builds(Sampling, st.sampled_from([0.0, 0.7]), st.integers(1, 3), st.integers(0, 2)),
    )
    one, other = data.draw(requests), data.draw(requests)
    assert (request_key(*one) == request_key(*other)) == (one == other)
