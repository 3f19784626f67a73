"""Two runs, or two variants, are told apart by pairs of items and not by luck."""

import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cp_ray.ablation import plan, study_of
from cp_ray.arrow import to_table
from cp_ray.comparison.command import compared
from cp_ray.errors import ConfigError
from cp_ray.evals.choose import predicted
from cp_ray.evals.differences import (
    OVERALL,
    gain_difference,
    item_differences,
    moderation_differences,
    own_differences,
    survey_differences,
)
from cp_ray.pipeline import Run, Step
from cp_ray.recipe import load_recipe
from cp_ray.records import Item, Message, QuestionScore, Score, Seed, TextLoss
from jobs.ablations import STUDIES

ROOT = Path(__file__).parent.parent.parent
DRAW = np.random.default_rng(0)
HARD = DRAW.uniform(0.1, 0.5, 12)


def questions(shift: float, models: tuple[str, ...] = ("german", "greek", "base")) -> list[QuestionScore]:
    return [
        QuestionScore(model, culture, f"Q{k}", "t", "heldout", float(h + shift + DRAW.normal(0, 0.01)), 0.0)
        for model in models
        for culture in ("german", "greek")
        for k, h in enumerate(HARD)
    ]


def test_a_better_run_is_told_apart_and_an_equal_one_is_not() -> None:
    better = survey_differences(questions(0.0), questions(-0.05))
    assert len(better) == 3 * 3
    assert {(d.told, d.n) for d in better} == {("lower", 12)}
    for d in better:
        assert d.gap is not None
        assert d.gap.low < d.second - d.first < d.gap.high < 0
    assert {d.told for d in survey_differences(questions(0.0), questions(0.0))} == {"not told apart"}


def test_own_adapters_are_compared_by_culture_and_together() -> None:
    found = own_differences(questions(0.0), [q for q in questions(-0.05) if q.culture != "greek" or q.model != "base"])
    assert [(d.culture, d.model) for d in found] == [("german", "own"), ("greek", "own"), (OVERALL, "own")]
    assert own_differences(questions(0.0, ("base",)), questions(0.0)) == []


def test_groups_of_cultures_are_compared_by_what_training_brings_them() -> None:
    """Trained, the Germans' distances fall by 0.2 and the Greeks' by 0.1."""
    told = [
        QuestionScore(model, culture, f"Q{k}", "t", "heldout", float(h) - fall * (model == culture), 0.0)
        for culture, fall in (("german", 0.2), ("greek", 0.1))
        for model in ("german", "greek", "base")
        for k, h in enumerate(HARD)
    ]
    (found,) = gain_difference(told, told, (("german", "english"), ("greek",)))
    assert (found.first, found.second) == pytest.approx((0.2, 0.1))
    assert found.n == 12
    assert (found.told, found.what) == ("lower", "fall of the held-out distance")
    assert gain_difference(told, told, (("german",), ("korean",))) == []


def test_moderation_is_compared_by_the_rows_that_both_have() -> None:
    items = [
        Item(f"s/{k}", "german", "s", (Message("user", "?"),), ("no", "yes"), ("no", "yes")[k % 2]) for k in range(80)
    ]
    right = [predicted(i, "m", (float(i.gold == "no"), float(i.gold == "yes"))) for i in items]
    wrong = [predicted(i, "m", (0.6, 0.4)) for i in items]
    (found,) = moderation_differences(items, wrong, right)
    assert found.first == pytest.approx(1 / 3)
    assert (found.second, found.told, found.n) == (1.0, "higher", 80)
    (same,) = moderation_differences(items, right, right[:40])
    assert (same.told, same.n) == ("not told apart", 40)
    lost = [replace(row, output="", probabilities=(), reject="no answer: gave up: time-out") for row in right[:20]]
    (some,) = moderation_differences(items, right, [*lost, *right[20:]])
    assert (some.first, some.second, some.n) == (1.0, 1.0, 60)


def test_any_measure_is_compared_by_its_items() -> None:
    first = {"german": dict(numbered(HARD)), "base": dict(numbered(HARD))}
    second = {"german": dict(numbered(HARD - 0.05)), "greek": dict(numbered(HARD))}
    (found,) = item_differences("nats a token", first, second, (-9.0, 9.0))
    assert (found.model, found.what, found.told, found.n) == ("german", "nats a token", "lower", 12)


def numbered(values: Iterable[float]) -> list[tuple[str, float]]:
    return [(str(k), float(value)) for k, value in enumerate(values)]


def evaluated(root: Path, shift: float) -> str:
    from cp_ray.evals.alignment import ScoreConfig
    from cp_ray.evals.forgetting import ForgettingConfig
    from cp_ray.folder import Folder, write_rows
    from cp_ray.steps.suite import ForgottenBy, SurveyItems

    def put(folder: Folder, inputs: object) -> pa.Table:
        rows = [
            Seed(f"{c}/Q{k}", c, "s", f"Q{k}", "t", f"{k}?", ("yes", "no"), (0.5, 0.5), 9, "yes", "heldout")
            for c in ("german", "greek")
            for k in range(len(HARD))
        ]
        return to_table(rows, Seed)

    def run(folder: Folder, inputs: object) -> pa.Table:
        rows = to_table(questions(shift), QuestionScore)
        write_rows(rows, folder / "questions" / "rows", QuestionScore)
        return to_table([], Score)

    made = Run(str(root))
    made.begin()
    seeds = Step("survey_seeds", ScoreConfig(), put, (), Seed)
    items = Step("survey_items", SurveyItems((), ()), lambda folder, inputs: to_table([], Item), (seeds,), Item)
    for step in (seeds, items, Step("survey_scores", ScoreConfig(), run, (seeds, items), Score)):
        made.do(step)

    def read(folder: Folder, inputs: object) -> pa.Table:
        texts = [TextLoss("base", str(k), 10, 10 * float(h) + shift, 10) for k, h in enumerate(HARD)]
        write_rows(to_table(texts, TextLoss), folder / "texts" / "rows", TextLoss)
        return to_table([], Score)

    texts = ForgettingConfig("b", (), tuple(f"text {k}" for k in range(len(HARD))))
    made.do(Step("forgetting_scores", ForgottenBy(texts, ()), read, (), Score))
    return str(root)


def test_cp_ray_compare_prints_a_table_of_two_runs(tmp_path: Path) -> None:
    first, second = evaluated(tmp_path / "a", 0.0), evaluated(tmp_path / "b", -0.05)
    code = "from cp_ray.cli import main; main()"
    shown = subprocess.run(
        [sys.executable, "-c", code, "compare", first, second], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "german, german, held-out distance: lower" in shown
    assert "| german | held-out distance | german |" in shown
    assert "base, nats a token of neutral text: lower" in shown
    (tmp_path / "c").mkdir()
    with pytest.raises(ConfigError, match="no evaluation in common"):
        compared(first, str(tmp_path / "c"))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_s_variants_are_recipes_that_differ(name: str, tmp_path: Path) -> None:
    study = study_of(name, STUDIES)
    recipe = load_recipe(str(ROOT / "jobs" / study.recipe))
    run, planned = plan(recipe, study, ["--root", str(tmp_path)])
    assert [steps[-1].name for steps in planned] == ["evaluate"] * len(study.variants)
    folders = {run.folder(steps[-1]).path for steps in planned}
    different = {variant.arguments for variant in study.variants}  # some variants look at another model of a run
    assert len(folders) == len(different), "a variant that changes nothing is none"


def test_a_study_of_cultures_needs_some_of_each_kind(tmp_path: Path) -> None:
    recipe = load_recipe(str(ROOT / "jobs" / "culturellm.py"))
    with pytest.raises(ConfigError, match="looks at languages with few texts; choose at least one of turkish"):
        plan(recipe, STUDIES["resource"], ["--root", str(tmp_path), "--cultures", "german,english"])


def test_an_unknown_study_is_told_in_one_line() -> None:
    with pytest.raises(ConfigError, match="there is no 'taste'; there are communication"):
        study_of("taste", STUDIES)
