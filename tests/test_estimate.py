"""The estimate of a run beside what the run then asks for."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cp_ray.estimate import estimate
from cp_ray.llm.budget import Price
from cp_ray.pipeline import Run
from cp_ray.recipe import load_recipe, parse_recipe

ROOT = Path(__file__).parent.parent


def steps_of(root: Path, *more: str) -> Any:
    given = ["--root", str(root), "--structured", "no", *more]
    return parse_recipe(load_recipe(str(ROOT / "jobs" / "culturepark.py")), given, "test")[1]


def test_the_calls_of_dialogues_are_counted_exactly(tmp_path: Path) -> None:
    found = estimate(Run(str(tmp_path / "run")), steps_of(tmp_path / "run", "--per-seed", "3", "--rounds", "4"))
    by = {line.step: line for line in found}
    assert list(by) == ["dialogue", "extract", "verify"]
    assert by["dialogue"].calls == 2 * 40 * 3 * 4 * 2
    assert by["extract"].calls == 2 * 40 * 3 * 4
    assert by["verify"].calls > by["extract"].calls
    assert by["dialogue"].prompt_tokens > by["dialogue"].completion_tokens
    assert by["dialogue"].usd(Price(1.0, 0.0)) == pytest.approx(by["dialogue"].prompt_tokens / 1e6)
    assert not (tmp_path / "run").exists(), "nothing is written"


def test_without_communication_one_call_is_made_for_a_seed(tmp_path: Path) -> None:
    found = estimate(Run(str(tmp_path / "run")), steps_of(tmp_path / "run", "--communication", "no"))
    assert [line.step for line in found] == ["direct", "verify"]
    assert found[0].calls == 80


def test_of_a_quota_the_first_wave_is_counted(tmp_path: Path) -> None:
    found = estimate(Run(str(tmp_path / "run")), steps_of(tmp_path / "run", "--accepted", "100"))
    assert [line.step for line in found] == ["dialogue.1", "extract.1", "verify.1"]
    assert found[0].calls == 2 * 29 * 14


def test_what_takes_the_opinions_or_dialogues_of_all_waves_takes_the_first_one_s(tmp_path: Path) -> None:
    more = ("--accepted", "5", "--analysed", "2", "--rounds", "3")
    found = {line.step: line.calls for line in estimate(Run(str(tmp_path / "run")), steps_of(tmp_path / "run", *more))}
    assert list(found) == ["dialogue.1", "extract.1", "verify.1", "analyse"]
    assert found["dialogue.1"] == 2 * 2 * 3 * 2
    assert found["analyse"] == 2 * 2 * 3 * 2, "every utterance of two dialogues of each culture"


@pytest.mark.parametrize("analysed", [2, 30])
def test_of_a_sample_as_many_dialogues_are_counted_as_are_asked_for(tmp_path: Path, analysed: int) -> None:
    more = ("--per-seed", "20", "--rounds", "3", "--analysed", f"{analysed}")
    found = {line.step: line.calls for line in estimate(Run(str(tmp_path / "run")), steps_of(tmp_path / "run", *more))}
    assert found["dialogue"] == 2 * 40 * 20 * 3 * 2
    assert found["analyse"] == analysed * 2 * 3 * 2


@pytest.mark.parametrize(("row", "cultures"), [("1 (Bengali)", "bengali"), ("10", "all")])
def test_the_table_of_costs_is_what_the_estimate_says(tmp_path: Path, row: str, cultures: str) -> None:
    asked = ["--root", str(tmp_path / "run"), "--cultures", cultures, "--per-seed", "20", "--teacher-url",
             "https://api.openai.com/v1", "--teacher-model", "gpt-4o-mini"]  # fmt: skip
    options, steps = parse_recipe(load_recipe(str(ROOT / "jobs" / "culturepark.py")), asked, "test")
    found, price = estimate(Run(str(tmp_path / "run")), steps), options.terms.price
    assert price is not None
    calls, tokens = (
        sum(n) for n in zip(*((e.calls, e.prompt_tokens + e.completion_tokens) for e in found), strict=True)
    )
    usd = sum(e.usd(price) for e in found)
    page = (ROOT / "docs" / "operation.md").read_text(encoding="utf-8")
    assert f"| {row} | {calls:,} | {tokens / 1e6:.1f} million | {usd:.2f} | " in page


def test_the_command_prints_it(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "cp_ray.cli", "show", "jobs/culturepark.py", "--root", str(tmp_path / "run"), "--cost",
         "--teacher-url", "http://127.0.0.1:9/v1", "--teacher-model", "gpt-4o-mini", "--rpm", "500"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "dialogue               1,120" in ended.stdout
    assert "at least" in ended.stdout
