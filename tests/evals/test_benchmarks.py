"""BBH and GSM8K from a user's folder: what is wrong with it is told in a line; figures are as worked out by hand."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from cp_ray.errors import ConfigError
from cp_ray.evals.benchmarks.files import TASKS, read_benchmarks
from cp_ray.evals.benchmarks.harness import harness_version, solve
from cp_ray.evals.benchmarks.scores import BenchmarksConfig, Solved, benchmark_scores, lost
from cp_ray.evals.results.benchmarks import benchmarks_section
from cp_ray.folder import open_folder
from tests.tiny import make_adapter, make_base

SUMS = [
    {"question": f"Tom has {k} apples and buys {k + 1}. How many has he?", "answer": f"{k}+{k + 1}\n#### {2 * k + 1}"}
    for k in range(8)
]
CLAIMS = {"canary": "-", "examples": [{"input": f"not {one} is", "target": str(not one)} for one in (True, False)]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gsm8k").mkdir()
    for name, rows in (("train", SUMS[:6]), ("test", SUMS[6:])):
        (tmp_path / "gsm8k" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "bbh").mkdir()
    (tmp_path / "bbh" / "boolean_expressions.json").write_text(json.dumps(CLAIMS))
    return tmp_path


def test_a_folder_s_benchmarks_are_found(folder: Path) -> None:
    assert [(one.name, one.area, one.items) for one in read_benchmarks(folder)] == [
        ("gsm8k", "gsm8k", 2), ("bbh/boolean_expressions", "bbh", 2),
    ]  # fmt: skip
    assert len(TASKS) == 27
    before = read_benchmarks(folder)[1].content
    (folder / "bbh" / "boolean_expressions.json").write_text(json.dumps(CLAIMS | {"canary": "x"}))
    assert read_benchmarks(folder)[1].content != before


def test_a_text_may_have_ends_of_lines_of_other_sorts_in_it(folder: Path) -> None:
    row = json.dumps({"question": "a\u2028b\x85c?", "answer": "#### 1"}, ensure_ascii=False)
    (folder / "gsm8k" / "test.jsonl").write_text(f"{row}\r\n{row}\n")
    assert read_benchmarks(folder)[0].items == 2


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("gsm8k/train.jsonl", None, "train.jsonl is missing; GSM8K takes both"),
        ("gsm8k/test.jsonl", b"", "test.jsonl is empty"),
        ("gsm8k/test.jsonl", b'{"question": "?"}', r"test.jsonl line 1 must have the texts question and answer"),
        ("gsm8k/test.jsonl", b"\n{", "test.jsonl line 2 is not JSON"),
        ("gsm8k/test.jsonl", b"\xff\xfe\x00", "cannot be read"),
        ("bbh/navigat.json", b"{}", "is none of BBH's 27 tasks; did you mean 'navigate'"),
        ("bbh/navigate.json", b"[]", "must be an object with a list 'examples'"),
        ("bbh/navigate.json", b'{"examples": [{"input": 3}]}', "navigate.json example 1 must have the texts input"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_one_line(
    folder: Path, file: str, text: bytes | None, message: str
) -> None:
    path = folder / file
    path.unlink(missing_ok=True)
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ConfigError, match=message) as raised:
        read_benchmarks(folder)
    assert "\n" not in str(raised.value)


def test_neither_benchmark_or_no_harness_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"has neither gsm8k/test.jsonl nor bbh"):
        read_benchmarks(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="not installed; pip install lm_eval"):
        harness_version()


def test_figures_by_hand_and_their_place_on_the_page() -> None:
    def rows(model: str, wrong: int) -> list[Solved]:
        names = ["gsm8k"] * 20 + ["bbh/navigate"] * 20 + ["bbh/snarks"] * 20
        return [Solved(model, name, str(k), k % 20 >= wrong) for k, name in enumerate(names)]

    told = [*rows("base", 0), *rows("german", 10), *rows("greek", 1)]
    scores = benchmark_scores(told)
    found = {(s.model, s.metric): (s.value, s.n) for s in scores}
    assert found["german", "bbh"] == (0.5, 40)
    assert found["german", "bbh/snarks"] == found["german", "gsm8k"] == (0.5, 20)
    tests = lost(told)
    assert tests["german", "bbh"].difference == -0.5
    assert tests["german", "bbh"].verdict() == "second"
    assert tests["greek", "bbh"].verdict() == "neither"
    page = benchmarks_section(scores, told)
    assert page.said[0].startswith("german: GSM8K 0.500, the untrained base 1.000: worse (p = 0.0")
    assert "greek: BBH 0.950, the untrained base 1.000: not told apart" in " ".join(page.said)
    assert "BBH is 2 of its 27 tasks" in page.notes[-1]


@pytest.mark.parametrize("whole", [False, True])
def test_the_harness_itself_runs_on_a_base_and_what_was_trained_on_it(
    folder: Path, tmp_path: Path, whole: bool
) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness, the extra `benchmarks`, is not installed")
    base = make_base(tmp_path / "base", context=2048)
    made = [
        make_base(tmp_path / name, context=2048, seed=k) if whole else make_adapter(base, tmp_path / name, k)
        for k, name in enumerate(("a", "b"))
    ]
    trained = {one.name: open_folder(str(one)) for one in made}
    found = read_benchmarks(folder)
    config = BenchmarksConfig(str(base), tuple(trained), (), harness_version(), rows=2, whole=whole)
    counted: list[int] = []
    solved: list[Any] = solve(config, found, trained, counted.append)
    assert {(s.model, s.benchmark, s.item) for s in solved} == {
        (m, b.name, str(k)) for m in ("base", "a", "b") for b in found for k in range(2)
    }
    assert sum(counted) == len(solved) == 12
    assert not any(s.right for s in solved), "random weights add nothing up"
