import asyncio
import errno
import json
import subprocess
import sys
import tempfile
import time
import unittest.mock
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray.errors import RunFolderError, TeacherError
from cp_ray.llm import ledger_index
from cp_ray.llm.call import Completion, Sampling, Token, Usage, request_key
from cp_ray.llm.ledger import Ledger, entries, join_parts, summary
from cp_ray.llm.ledger_index import Index
from cp_ray.records import Message

ANSWER = Completion("Ja.\nüber 日本 \u2028", "stop", Usage(5, 2), 0.25, "m")


def key(k: int) -> str:
    return f"{k:032x}"


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
        with closing(Ledger(str(tmp_path), "dialogue", "m")) as ledger:
            return [await ledger.get_or_call(key(1), paying(ANSWER, calls)) for _ in range(2)]

    assert asyncio.run(run()) == [(ANSWER, True), (ANSWER, False)]
    assert asyncio.run(run()) == [(ANSWER, False)] * 2
    assert len(calls) == 1


def test_log_probabilities_are_replayed_and_have_an_address_of_their_own(tmp_path: Path) -> None:
    told = replace(ANSWER, logprobs=(Token("Ja", -0.25, (("Ja", -0.25), ("日", -1.5))), Token(".", -0.125)))

    async def run() -> list[Completion]:
        with closing(Ledger(str(tmp_path), "s", "m")) as ledger:
            return [(await ledger.get_or_call(key(k), paying(one, [])))[0] for k, one in enumerate((told, ANSWER))]

    assert asyncio.run(run()) == asyncio.run(run()) == [told, ANSWER]
    asked = [Sampling(0.0, 8), Sampling(0.0, 8, logprobs=5), Sampling(0.0, 8, logprobs=5, answer="Ja")]
    asked.append(replace(asked[-1], prefilled=True))
    assert len({request_key("m", (), one) for one in asked}) == 4


def test_it_is_on_disk_before_it_is_given_out(tmp_path: Path) -> None:
    async def run() -> None:
        with closing(Ledger(str(tmp_path), "s", "m")) as ledger:
            for k in range(5):
                await ledger.get_or_call(key(k), paying(ANSWER, []))
                lines = [line for file in (tmp_path / "ledger").iterdir() for line in file.read_text().split("\n")[:-1]]
                assert [json.loads(line)["key"] for line in lines] == [key(j) for j in range(k + 1)]

    asyncio.run(run())


def test_the_same_request_at_the_same_time_is_one_call(tmp_path: Path) -> None:
    calls: list[int] = []

    async def run() -> list[tuple[Completion, bool]]:
        with closing(Ledger(str(tmp_path), "s", "m")) as ledger:
            return await asyncio.gather(*(ledger.get_or_call(key(0), paying(ANSWER, calls, 0.01)) for _ in range(10)))

    assert [paid for _, paid in asyncio.run(run())] == [True] + [False] * 9
    assert len(calls) == 1


@pytest.mark.parametrize("failure", [TeacherError("down"), Completion("", "refused with status 400", Usage(0, 0))])
def test_a_failure_is_never_kept_as_an_answer(tmp_path: Path, failure: Exception | Completion) -> None:
    async def run() -> bool:
        with closing(Ledger(str(tmp_path), "s", "m")) as ledger:
            if isinstance(failure, Exception):
                with pytest.raises(TeacherError):
                    await ledger.get_or_call(key(0), paying(failure, []))
            else:
                assert await ledger.get_or_call(key(0), paying(failure, [])) == (failure, True)
            return (await ledger.get_or_call(key(0), paying(ANSWER, [])))[1]

    assert asyncio.run(run()) is True


def test_what_was_paid_for_without_an_answer_is_summed_and_asked_again(tmp_path: Path) -> None:
    withheld, calls = Completion("", "content_filter", Usage(1000, 1000), 2.0, "m"), list[int]()

    async def run() -> list[bool]:
        with closing(Ledger(str(tmp_path), "s", "m")) as ledger:
            return [(await ledger.get_or_call(key(k), paying(withheld, calls)))[1] for k in (0, 0, 1)]

    assert [asyncio.run(run()) for _ in range(2)] == [[True] * 3] * 2
    (found,) = summary(str(tmp_path))
    assert (found.calls, found.usd, found.prompt_tokens, found.failures) == (0, 12.0, 6000, {"content_filter": 6})
    assert list(entries(str(tmp_path))) == []
    assert len(calls) == 6


def test_what_two_workers_paid_for_is_summed_twice_and_a_copy_of_it_once(tmp_path: Path) -> None:
    calls: list[int] = []

    async def run() -> None:
        workers = [Ledger(str(tmp_path), "s", "m") for _ in range(2)]
        await asyncio.gather(*(w.get_or_call(key(0), paying(ANSWER, calls, 0.05 * k)) for k, w in enumerate(workers)))
        for worker in workers:
            worker.close()

    asyncio.run(run())
    for file in list((tmp_path / "ledger").iterdir()):
        (tmp_path / "ledger" / f"joined-{file.name}").write_bytes(file.read_bytes())
    (found,) = summary(str(tmp_path))
    assert (len(calls), found.calls, found.usd) == (2, 2, 0.5)


def test_a_torn_last_line_is_no_answer_and_a_damaged_line_is_told(tmp_path: Path) -> None:
    async def pay(name: str) -> bool:
        with closing(Ledger(str(tmp_path), "s", "m")) as ledger:
            return (await ledger.get_or_call(name, paying(ANSWER, [])))[1]

    asyncio.run(pay(key(1)))
    file = next((tmp_path / "ledger").iterdir())
    whole = file.read_bytes()
    for cut in range(1, len(whole)):
        file.write_bytes(whole + whole[:cut].replace(key(1).encode(), key(2).encode()))
        if not whole[:cut].endswith(b"\n"):
            assert summary(str(tmp_path))[0].calls == 1
    for damage in (
        b'{"key": "broken"\n',
        b"what is this\n",
        whole.replace(b'"text"', b'"te', 1).replace(key(1).encode(), key(3).encode()),
    ):
        file.write_bytes(whole + damage + whole)
        with pytest.raises(RunFolderError, match=r"line 2 is damaged"):
            summary(str(tmp_path))
        with pytest.raises(RunFolderError, match=r"damaged at byte \d+"):
            asyncio.run(pay(key(3)))


def test_it_is_the_same_on_a_filesystem_that_cannot_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Any filesystem that is not called local is written to in whole files.
    class Elsewhere(pafs.SubTreeFileSystem):  # type: ignore[misc]
        pass

    monkeypatch.setattr(
        "cp_ray.llm.ledger._open", lambda root: (Elsewhere("/", pafs.LocalFileSystem()), f"{root}/ledger".lstrip("/"))
    )
    calls: list[int] = []

    async def run(keys: range) -> list[Completion]:
        with closing(Ledger(str(tmp_path), "s", "m")) as ledger:
            return [(await ledger.get_or_call(key(k), paying(ANSWER, calls)))[0] for k in keys]

    for stop in (3, 5, 5):
        assert asyncio.run(run(range(stop))) == [ANSWER] * stop
        assert len(list((tmp_path / "ledger").iterdir())) == len(calls), "a file for each commit"
    join_parts(str(tmp_path))
    assert len(list((tmp_path / "ledger").iterdir())) == 1
    assert asyncio.run(run(range(5))) == [ANSWER] * 5
    assert len(calls) == 5
    assert summary(str(tmp_path))[0].calls == 5


def test_failures_are_counted_beside_the_answers(tmp_path: Path) -> None:
    async def run() -> None:
        with closing(Ledger(str(tmp_path), "s", "m")) as ledger:
            ledger.failed("status 429")
            await ledger.get_or_call(key(1), paying(ANSWER, []))
            ledger.failed("status 429")
            ledger.failed("time-out")

    asyncio.run(run())
    (found,) = summary(str(tmp_path))
    assert found.failures == {"status 429": 2, "time-out": 1}
    assert (found.calls, found.usd) == (1, 0.25)
    assert [e.key for e in entries(str(tmp_path))] == [key(1)]


@given(st.lists(st.tuples(st.integers(0, 2**128 - 1), st.text(max_size=30)), max_size=40), st.integers(20, 300))
def test_the_index_finds_every_line_wherever_chunks_end(written: list[tuple[int, str]], chunk: int) -> None:
    first = {key(k): text for k, text in reversed(written)}
    with tempfile.TemporaryFile("w+b", buffering=0) as file, unittest.mock.patch.object(ledger_index, "_CHUNK", chunk):
        for k, text in written:
            file.write(json.dumps({"key": key(k), "text": text}, ensure_ascii=False).encode() + b"\n")
        file.write(b'{"key": "0000')
        index = Index([("f", lambda: file)])
        assert len(index) == len(written)
        for name, text in first.items():
            found = index.find(name)
            assert found is not None
            assert found["text"] == text
        assert index.find("f" * 31 + "e") is None or "f" * 31 + "e" in first


def test_totals_by_step(tmp_path: Path) -> None:
    async def run() -> None:
        for step, keys in (("dialogue", (1, 2, 3)), ("verify", (4, 5))):
            with closing(Ledger(str(tmp_path), step, "m")) as ledger:
                await asyncio.gather(*(ledger.get_or_call(key(k), paying(ANSWER, [])) for k in keys))

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
        await ledger.get_or_call(f"{{k:032x}}", call)
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
    writer.stdout.close()
    calls: list[int] = []

    async def replay() -> list[str]:
        with closing(Ledger(str(tmp_path), "s", "m")) as ledger:
            return [(await ledger.get_or_call(key(int(k)), paying(ANSWER, calls)))[0].text for k in given_out]

    assert asyncio.run(replay()) == given_out
    assert calls == []


def test_more_files_than_a_process_may_have_open_are_read_all_the_same(tmp_path: Path) -> None:
    async def pay() -> bytes:
        with closing(Ledger(str(tmp_path), "s", "m")) as ledger:
            await ledger.get_or_call(key(0), paying(ANSWER, []))
        return next((tmp_path / "ledger").iterdir()).read_bytes()

    line = asyncio.run(pay())
    for k in range(1, 500):
        (tmp_path / "ledger" / f"{k}.jsonl").write_bytes(line.replace(key(0).encode(), key(k).encode()))
    code = f"""
import asyncio, resource
from cp_ray.llm.ledger import Ledger

async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
    ledger = Ledger({str(tmp_path)!r}, "s", "m")
    print(sum([not (await ledger.get_or_call(f"{{k:032x}}", None))[1] for _ in range(2) for k in range(500)]))
    ledger.close()

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert done.split() == ["1000"]


def test_an_answer_that_there_is_no_room_for_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    code = f"""
import asyncio, resource
from cp_ray.llm.call import Completion, Usage
from cp_ray.llm.ledger import Ledger

async def pay(ledger, k):
    async def call():
        return Completion("x" * 40, "stop", Usage(1, 1))
    try:
        await ledger.get_or_call(f"{{k:032x}}", call)
    except OSError as error:
        print("no room", error.errno, flush=True)
    else:
        print(k, flush=True)

async def main():
    ledger = Ledger({str(tmp_path)!r}, "s", "m")
    resource.setrlimit(resource.RLIMIT_FSIZE, (900, resource.RLIM_INFINITY))
    for k in range(4):
        await pay(ledger, k)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await pay(ledger, 4)
    answer, paid = await ledger.get_or_call(f"{{4:032x}}", None)
    print(answer.text == "x" * 40 and not paid)
    ledger.close()

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
    # Lines of some 245 bytes: the fourth is cut off by the limit in its midst.
    assert done.splitlines() == ["0", "1", "2", f"no room {errno.EFBIG}", "4", "True"]
    (file,) = (tmp_path / "ledger").iterdir()
    assert [json.loads(line)["key"] for line in file.read_text().splitlines()] == [key(k) for k in (0, 1, 2, 4)]
    calls: list[int] = []

    async def replay() -> None:
        with closing(Ledger(str(tmp_path), "s", "m")) as ledger:
            for k in range(5):
                await ledger.get_or_call(key(k), paying(ANSWER, calls))

    asyncio.run(replay())
    assert len(calls) == 1, "only what was told to be lost is paid for again"


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
