"""analyse, its rates, and the recipe's new steps on real Ray."""

import asyncio
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray import steps
from cp_ray.arrow import to_table
from cp_ray.errors import ConfigError
from cp_ray.estimate import estimate
from cp_ray.evals.intervals import ratio_interval, share_interval
from cp_ray.evals.report import render
from cp_ray.evals.talks import rate, talk_rates
from cp_ray.llm.call import Completion, Usage
from cp_ray.llm.scripted import Scripted
from cp_ray.pipeline import Run, Step, execute
from cp_ray.recipe import load_recipe, parse_recipe
from cp_ray.records import Analysis, Dialogue, Opinion, Turn
from cp_ray.stages.analyse import AnalyseConfig, SampleConfig, analyse, analyse_prompt, parse_analysis, sample
from cp_ray.teacher import Teacher

RECIPE = load_recipe(str(Path(__file__).parent.parent.parent / "jobs" / "culturepark.py"))
TALK = Dialogue(
    "d", "german/Q40", "german", "guided", "cross", "Emily", "Lukas", "", "social values", "Is work a duty?",
    tuple(Turn(("Lukas", "Emily")[k % 2], "opinion", f"Utterance {k}.", 5) for k in range(6)), "t",
)  # fmt: skip
YES = {"topic": "norm/legal", "extends": "yes", "understands": "no"}
SAID = ("Germans think that work is a duty.", "Germans help each other.", "Work is a duty.")
TOGETHER = "said of several people together"
LINES = "Topic: norm/legal\nExtends: yes.\n\nunderstands: no"


def analysed(answer: str | Completion, *, structured: bool = False) -> list[Analysis]:
    return asyncio.run(analyse(TALK, Scripted(lambda *_: answer), AnalyseConfig("t", structured=structured)))


@pytest.mark.parametrize(("answer", "structured"), [(LINES, False), (json.dumps(YES), True)])
def test_every_utterance_is_a_row(answer: str, structured: bool) -> None:
    rows = analysed(answer, structured=structured)
    assert [row.id for row in rows] == [f"d/0{k}" for k in range(6)]
    assert {(r.topic, r.kind, r.understands, r.reject) for r in rows} == {("norm", "legal", False, None)}
    assert [r.extends for r in rows] == [None, *[True] * 5], "the first has nothing to go on from"


def test_what_was_said_before_is_shown() -> None:
    (_, asked) = analyse_prompt(TALK, 5, AnalyseConfig("t", context=2))
    assert [f"Utterance {k}." in asked.content for k in range(6)] == [False, False, False, True, True, True]
    assert all(f"custom/{kind}" in asked.content for kind in ("family", "community", "cultural"))


@pytest.mark.parametrize(
    ("answer", "structured", "why"),
    [
        (LINES.replace("legal", "family"), False, "analysis not understood"),
        (LINES + "\nI hope this helps.", False, "analysis not understood"),
        (LINES + "\nextends: no", False, "analysis not understood"),
        ("", False, "analysis not understood"),
        (json.dumps({**YES, "topic": "norm/family"}), True, "not the JSON asked for"),
        (json.dumps({**YES, "more": 1}), True, "not the JSON asked for"),
        (Completion("", "content_filter", Usage(1, 0)), True, "content_filter"),
        (Completion("", "content_filter", Usage(1, 0)), False, "content_filter"),
    ],
)
def test_an_answer_that_is_not_understood_is_kept_with_its_reason(
    answer: str | Completion, structured: bool, why: str
) -> None:
    rows = analysed(answer, structured=structured)
    assert {(r.reject, r.topic, r.extends, r.understands) for r in rows} == {(why, None, None, None)}


@given(st.text())
def test_any_answer_is_understood_or_not(text: str) -> None:
    assert parse_analysis(text) is None or text.count(":") >= 3


def test_the_sample_is_the_same_and_of_each_culture_so_many_whole_dialogues() -> None:
    talks = [
        Dialogue(f"{c}/{k}", "", c, "", "", "", "", "", "", "", (), "", "cut off" if k == 3 else None)
        for c in ("german", "arabic")
        for k in range(20)
    ]
    chosen = sample(talks, SampleConfig(5))
    assert chosen == sample(reversed(talks), SampleConfig(5))
    assert [d.culture for d in chosen] == ["arabic"] * 5 + ["german"] * 5
    assert len(sample(talks, SampleConfig(50))) == 38


def row(dialogue: str, extends: bool | None, culture: str = "german", topic: str = "norm") -> Analysis:
    return Analysis("", dialogue, "", culture, "", "", topic, None, extends, True)


def test_rates_count_utterances_and_their_intervals_draw_dialogues() -> None:
    rows = [row("a", None), row("a", True), row("a", True), row("b", False, topic="belief"), row("c", True, "greek")]
    german, greek = talk_rates([*rows, Analysis("", "a", "", "german", "", "", reject="cut off")])
    assert (german.culture, german.dialogues, german.utterances) == ("german", 2, 4)
    assert german.extends is not None
    assert german.extends.mean == pytest.approx(2 / 3)
    assert (german.extends.low, german.extends.high) == (0.0, 1.0)
    assert german.topics == (("norm", 0.75), ("belief", 0.25))
    assert greek.extends is not None
    assert (greek.extends.low, greek.extends.mean, greek.extends.high) == (0.0, 1.0, 1.0), "one dialogue tells nothing"
    assert rate([], seed=0) is None
    alike = rate([(f"d{k}", True) for k in range(4)], seed=0)
    assert alike == share_interval(4, 4), "four dialogues that agree leave room for others"


def test_a_rate_is_that_of_all_utterances_and_its_interval_that_of_the_dialogues() -> None:
    draw = np.random.default_rng(3)
    answers = [(f"d{d}", bool(draw.random() < 0.3 + 0.4 * (d % 2))) for d in range(12) for _ in range(1 + d % 4)]
    groups = [[a for d, a in answers if d == f"d{k}"] for k in range(12)]
    yes, asked = [sum(group) for group in groups], [len(group) for group in groups]
    found = rate(answers, seed=1, resamples=500)
    assert found == ratio_interval(yes, asked, resamples=500, seed=1, bounds=(0, 1))
    assert found is not None
    assert found.mean == sum(yes) / sum(asked)
    # The usual error of a ratio over groups (linearised), which a bootstrap over twelve dialogues comes near to.
    off = np.array(yes) - found.mean * np.array(asked)
    error = math.sqrt(12 / 11 * (off**2).sum()) / sum(asked)
    t = 2.201  # of eleven degrees of freedom
    assert found.low == pytest.approx(found.mean - t * error, abs=0.08)
    assert found.high == pytest.approx(found.mean + t * error, abs=0.08)


def steps_of(root: Path, *more: str) -> Any:
    return parse_recipe(RECIPE, ["--root", str(root), *more], "test")[1]


def test_the_steps_on_ray_and_their_place_in_the_report(
    ray_cluster: None, scripted_server: Any, tmp_path: Path
) -> None:
    given = ("--teacher-url", scripted_server().url, "--teacher-model", "scripted", "--structured", "yes")
    recipe = {step.name: step for step in steps_of(tmp_path, *given, "--analysed", "2")}
    talks = [replace(TALK, id=f"d{k}", culture=c) for k, c in enumerate(["german", "arabic"] * 3)]
    held = Step("dialogue", SampleConfig(1), lambda *_: to_table(talks, Dialogue), rows=Dialogue)
    opinions = [Opinion(f"o{k}", "d", "", "german", "", "", "", text) for k, text in enumerate(SAID)]
    judged = Step("verify", SampleConfig(1), lambda *_: to_table(opinions, Opinion), rows=Opinion)
    by, run = recipe["analyse"].within, Run(str(tmp_path))
    assert isinstance(by, Teacher)
    sampled = steps.sample([held], recipe["sample"].config)
    told = steps.voice(judged, by, recipe["voice"].config)
    analysed = steps.analyse(sampled, by, recipe["analyse"].config)
    execute(run, [held, judged, sampled, told, analysed], on_start=lambda _: None, on_done=lambda *_, skipped: None)
    texts = [(o.text, o.reject) for o in run.folder(told).read(Opinion)]
    assert texts == [
        ("I think that work is a duty.", None), ("Germans help each other.", f"no first person: {TOGETHER}"),
        ("Work is a duty.", None),
    ]  # fmt: skip
    rows = run.folder(analysed).read(Analysis)
    assert len(rows) == 2 * 2 * 6
    assert all(r.reject is None and r.topic for r in rows)
    page, _ = render({"analyse": run.folder(analysed)}, str(tmp_path), recipe["report"].config)
    assert "How they talk" in page
    assert page.count("<small class=") == 4


def test_opinions_are_told_before_they_are_counted(tmp_path: Path) -> None:
    every = [step.name for step in steps_of(tmp_path, "--analysed", "1", "--accepted", "3")]
    assert every.index("verify.1") < every.index("voice.1") < every.index("dedup.1") < every.index("quota")
    assert every.index("quota") < every.index("sample") < every.index("analyse") < every.index("examples")
    assert "voice" not in {step.name for step in steps_of(tmp_path, "--voice", "none")}


def test_what_both_cost_is_estimated_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def near_duplicates(*_: Any, **__: Any) -> None:
        raise AssertionError("an estimate looks for no near-duplicates")

    monkeypatch.setattr("cp_ray.stages.near.near_duplicates", near_duplicates)
    every = steps_of(tmp_path / "run", "--rounds", "1", "--analysed", "40", "--voice", "teacher")
    names = [step.name for step in every]
    assert names.index("near") < names.index("analyse")
    by = {line.step: line.calls for line in estimate(Run(str(tmp_path / "run")), every)}
    assert list(by) == ["dialogue", "extract", "verify", "voice", "analyse"]
    assert by["analyse"] == pytest.approx(2 * 40 * 2, rel=0.1)
    assert by["voice"] > 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--analysed", "-1"), "analysed: must be at least 1, or 0 for none, got -1"),
        (("--analysed", "3", "--communication", "no"), "analysed: there are no dialogues with --communication no"),
        (("--voice", "loud"), "voice: must be grammar, teacher or none, got 'loud'"),
    ],
)
def test_a_wrong_option_is_told_before_anything_starts(tmp_path: Path, wrong: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        steps_of(tmp_path / "run", *wrong)
    assert said in str(raised.value)
