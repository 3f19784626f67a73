"""What `cp-ray calls` shows."""

import asyncio
import json
from contextlib import closing
from pathlib import Path

import pytest

from cp_ray.cli import main
from cp_ray.llm.call import Completion, Usage
from cp_ray.llm.ledger import Ledger
from cp_ray.pipeline import Run


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    async def pay() -> None:
        number = 0
        for step, models in (("dialogue", ("m", "m", "other")), ("verify", ("m",))):
            with closing(Ledger(str(tmp_path), step, "m")) as ledger:
                for model in models:
                    number += 1
                    answer = Completion(f"answer {number}\nof two lines", "stop", Usage(1000, 10), 0.5, model)

                    async def call(answer: Completion = answer) -> Completion:
                        return answer

                    await ledger.get_or_call(f"{number:032x}", call)
                ledger.failed("status 429")

    Run(str(tmp_path)).begin()
    asyncio.run(pay())
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["calls", *arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_a_line_for_each_step_and_model(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = shown(capsys, str(run_folder))
    assert status == 0
    lines = {tuple(line.split()[:3]): line.split() for line in out.splitlines()[1:]}
    assert lines["dialogue", "m", "2"][3:6] == ["2,000", "20", "1.0000"]
    assert lines["dialogue", "other", "1"][5] == "0.5000"
    assert lines["dialogue", "m", "2"][-3:] == ["1", "status", "429"]
    assert lines["in", "all", "4"][3:6] == ["4,000", "40", "2.0000"]


def test_the_same_for_machines(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = shown(capsys, str(run_folder), "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert sum(line["usd"] for line in found) == 2.0
    assert found[0]["failed_tries"] == {"status 429": 1}


def test_the_last_calls_as_text(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = shown(capsys, str(run_folder), "--last", "2")
    assert len(out.splitlines()) == 4
    assert "answer 4 of two lines" in out
    assert "answer 2" not in out


@pytest.mark.parametrize(
    ("more", "said"), [((), "has made no calls"), (("--last", "0"), "last: must be at least 1, got 0")]
)
def test_what_is_wrong_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], said: str
) -> None:
    status, out, err = shown(capsys, str(tmp_path / "none"), *more)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
