"""CultureLLM's recipe and a sweep on real Ray, with the real judge of meaning, against a scripted teacher over HTTP."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cp_ray.arrow import to_table
from cp_ray.embedding import Embedder
from cp_ray.errors import ConfigError
from cp_ray.evals.intervals import interval
from cp_ray.folder import open_folder, write_rows
from cp_ray.pipeline import Run, pending, select
from cp_ray.recipe import load_recipe, parse_recipe
from cp_ray.records import Example, Mixture, Nearness, Paraphrase, QuestionScore, Seed, Translation
from cp_ray.sweep import Point, parse_over, plan, point_of, sweep, swept_page, table
from tests.doing import do

RECIPE = load_recipe(str(Path(__file__).parent.parent / "jobs" / "culturellm.py"))
SMALL = ("--questions", "2", "--heldout", "2", "--templates", "2", "--samples", "3", "--tau", "0.5", "--answers", "10")


def given(root: Path, url: str, *more: str) -> list[str]:
    return ["--root", str(root), "--teacher-url", url, "--teacher-model", "scripted", "--structured", "no", *SMALL,
            *more]  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(600)
def test_questions_in_many_wordings_and_in_each_cultures_language(
    ray_cluster: None, scripted_server: Any, tmp_path: Path
) -> None:
    server = scripted_server()
    options, steps = parse_recipe(RECIPE, given(tmp_path, server.url, "--language", "own"), "test")
    run, chosen = Run(options.root), select(steps, "export")
    pending(run, chosen)
    do(run, chosen)
    folders = {step.name: run.folder(step) for step in chosen}
    kept = [row for row in folders["wordings"].read(Paraphrase) if row.reject is None]
    ways = Counter(row.way for row in kept)
    assert ways["survey"] == 2
    assert 0 < ways["synonym"] <= 2 * 3
    assert all(row.similarity is not None and row.similarity >= 0.5 for row in kept if row.way == "synonym")
    templates = folders["check.templates"].read(Paraphrase)
    assert {row.parents for row in kept if row.way == "synonym"} <= {(row.id,) for row in templates}
    translated = folders["translate"].read(Translation)
    assert {row.language for row in translated} == {"Arabic", "German"}
    assert {row.reject for row in translated} == {None}

    examples = folders["examples"].read(Example)
    assert Counter(e.culture for e in examples) == {"arabic": 20, "german": 20}, "more wordings, the same budget"
    asked = {e.messages[1].content.partition("]")[0] for e in examples}
    assert asked == {"[Arabic", "[German"}
    worded = {parent for e in examples for parent in e.parents[1:]}
    assert worded == {row.id for row in kept if row.way != "survey"}

    card = (tmp_path / "export" / "huggingface" / "README.md").read_text()
    assert "- ar\n- de\n" in card
    assert "in each culture's own language, translated by the teacher" in " ".join(card.split())
    assert f"The questions of {sum(len(e.parents) > 1 for e in examples)} rows are in other words" in card

    near = folders["leakage"].read(Nearness)
    assert {row.id for row in near} >= worded
    heldout = {s.question_id for s in folders["seeds"].read(Seed) if s.split == "heldout"}
    assert {row.question_id for row in near} <= heldout
    assert server.stats()["calls"] == len(server.stats()["requests"]), "nothing is asked twice"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_sweep_pays_once_for_what_does_not_change(ray_cluster: None, scripted_server: Any, tmp_path: Path) -> None:
    server = scripted_server()
    more = given(tmp_path, server.url, "--method", "templates", "--entail", "no", "--until", "wordings")
    points = sweep("tau", ["0.3", "1"], *plan(RECIPE, "tau", ["0.3", "1"], more), do)
    assert server.stats()["calls"] == 2, "one call a question"
    assert [p.value for p in points] == ["0.3", "1"]
    assert points[0].wordings is not None
    assert points[0].wordings > 0 == points[1].wordings
    assert points[0].diversity_gain is not None
    page = (tmp_path / "sweep-tau.html").read_text()
    assert page.count("<svg") >= 3
    assert json.loads((tmp_path / "sweep-tau.json").read_text())[1]["wordings"] == 0


@pytest.mark.long
@pytest.mark.timeout(600)
def test_no_question_made_of_two_is_near_a_held_out_one(ray_cluster: None, tmp_path: Path) -> None:
    asked = ["--root", str(tmp_path), "--cultures", "german", "--method", "none", "--samples", "0", "--mixed", "1"]
    options, steps = parse_recipe(RECIPE, asked, "test")
    run, chosen = Run(options.root), select(steps, "examples")
    do(run, chosen)
    folders = {step.name: run.folder(step) for step in chosen}
    heldout = {s.question for s in folders["seeds"].read(Seed) if s.split == "heldout"}
    mixed = {e.messages[1].content.partition("\n")[0] for e in folders["examples"].read(Example) if e.kind == "mixed"}
    assert len(mixed) > 30
    embedder = Embedder("minilm")
    assert float((embedder.encode(sorted(mixed)) @ embedder.encode(sorted(heldout)).T).max()) <= 0.8
    (aside,) = (row for row in folders["leakage"].read(Nearness) if row.reject is not None)
    assert aside.reject == "near a held-out question"
    assert aside.id in {row.id for row in folders["mixed"].read(Mixture)}


@pytest.mark.parametrize("recipe", ["culturellm", "culturepark", "demo"])
def test_questions_made_of_two_are_checked_in_every_recipe(tmp_path: Path, recipe: str) -> None:
    made = load_recipe(str(Path(__file__).parent.parent / "jobs" / f"{recipe}.py"))

    def inputs(*more: str) -> dict[str, list[str]]:
        steps = parse_recipe(made, ["--root", str(tmp_path), *more], "test")[1]
        return {step.name: [given.name for given in step.inputs] for step in steps}

    found = inputs("--mixed", "1")
    assert "mixed" in found["leakage"]
    assert "mixed" in found["examples"]
    assert list(found).index("mixed") < list(found).index("leakage")
    assert "mixed" not in inputs()
    with pytest.raises(ConfigError, match="mixed: must be at least 0, got -1"):
        inputs("--mixed", "-1")
    if recipe == "culturellm":
        assert inputs("--mixed", "1", "--answers-from", "neighbours")["mixed"] == ["neighbours"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--method", "template"), "method: must be both, templates, synonyms, translations or none, got 'template'; "
                                   "did you mean 'templates'?"),
        (("--language", "greek"), "language: must be english or own"),
        (("--tau", "1.5"), "tau: must be between 0 and 1, got 1.5"),
        (("--samples", "-1"), "samples: must be at least 0, got -1"),
        (("--samples", "60"), "answers: must be at least 61, got"),
        (("--templates", "0"), "templates: must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_told(tmp_path: Path, wrong: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_recipe(RECIPE, given(tmp_path, "http://127.0.0.1:9/v1", *wrong), "test")
    assert said in str(raised.value)


def test_where_there_are_no_wordings_few_answers_will_do(tmp_path: Path) -> None:
    parse_recipe(RECIPE, [*given(tmp_path, "http://127.0.0.1:9/v1"), "--method", "none", "--answers", "2"], "test")


@pytest.mark.parametrize("text", ["tau", "tau=", "=1", "tau=1,1"])
def test_a_sweep_over_nothing_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="over: must be an option and different values"):
        parse_over(text)


@pytest.mark.parametrize(
    "name", ["root", "--root", "until", "budget", "in-flight", "teacher_workers", "timeout", "help"]
)
def test_a_sweep_is_over_what_changes_the_result(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"over: '{name.lstrip('-')}' says where, how far or at what pace"):
        parse_over(f"{name}=1,2")


def test_a_sweeps_wrong_value_is_told_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tau"):
        plan(RECIPE, "tau", ["0.5", "7"], given(tmp_path / "run", "http://127.0.0.1:9/v1", "--until", "questions"))
    assert not (tmp_path / "run").exists()


def test_a_sweep_as_text_and_page() -> None:
    points = [Point("0", 80), Point("10", 80, 40, 0.91, 0.4, 0.2, 0.3, (0.1, 0.4), (0.25, 0.35))]
    lines = table("samples", points)
    assert [line.split()[0] for line in lines] == ["samples", "0", "10"]
    assert lines[2].split()[5:] == ["0.200", "[0.100,", "0.400]", "0.300", "[0.250,", "0.350]"]
    assert len({len(line) for line in lines}) == 1, "columns stand under each other"
    page = swept_page("samples", points)
    assert "Held-out distance" in page
    assert "<td>0.200 <small>[0.100, 0.400]</small></td><td>40</td>" in page
    assert "0.300 <small>[0.250, 0.350]</small>" in page
    # The scale ends at 1.2 times the highest end, 0.48, at 174 pixels: 0.1 and 0.4 lie at 137.75 and 29.
    assert page.count('class="whisker"') == 1, "of the distance alone, where there is one"
    assert re.search(r'<line class="whisker" [^>]*y1="137.[78]" y2="29.0"/>', page)
    assert 'whisker"' not in swept_page("samples", points[:1])
    assert "Whiskers and brackets" not in swept_page("samples", [Point("0", 80)])


def test_a_sweep_s_distance_is_a_mean_over_questions_with_its_interval(tmp_path: Path) -> None:
    """Two questions that both cultures were asked, one that one was."""
    told = {"Q0": (0.1, 0.3), "Q1": (0.4, 0.6), "Q2": (0.9, None)}
    rows = [
        QuestionScore(model, culture, id, "t", "heldout", value + more, 0.0)
        for id, own in told.items()
        for culture, value in zip(("german", "greek"), own, strict=True)
        for model, more in ((culture, 0.0), ("base", 0.1), ("human", -0.1))
        if value is not None
    ]
    folder = open_folder(str(tmp_path))
    write_rows(to_table(rows, QuestionScore), folder / "questions" / "rows", QuestionScore)
    point = point_of("x", {"evaluate": folder})
    assert (point.distance, point.base) == (0.35, 0.45)
    for found, values in ((point.distance_interval, [0.2, 0.5]), (point.base_interval, [0.3, 0.6])):
        by_hand = interval(values, resamples=2000, seed=0)
        assert found == pytest.approx((by_hand.low, by_hand.high), abs=1e-4)
    assert point_of("x", {}) == Point("x", 0)
