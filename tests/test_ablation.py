"""Studies done whole on real Ray: only training, which has tests of its own, is played."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cp_ray.ablation import Study, Variant, ablate, plan
from cp_ray.arrow import to_table
from cp_ray.cultures import NEIGHBOURS
from cp_ray.evals.alignment import ScoreConfig
from cp_ray.evals.differences import OVERALL
from cp_ray.folder import Folder, write_rows
from cp_ray.pipeline import Run, Step
from cp_ray.recipe import load_recipe
from cp_ray.records import Example, QuestionScore, Score, Seed
from jobs.ablations import STUDIES
from tests.doing import do
from tests.tiny import make_adapter, make_base

JOBS = Path(__file__).parent.parent / "jobs"


def play_training(base: Path, patch: pytest.MonkeyPatch) -> None:
    """Adapters of random weights that hang on the rows they would be trained on."""

    def fit(config: Any, placement: Any, rows: Sequence[Example], folder: Folder, *, progress: Any) -> None:
        for adapter in config.adapters:
            ids = {culture.id for culture in adapter.cultures}
            own = [[m.content for m in row.messages] for row in rows if row.culture in ids]
            place = Path(folder.path, "adapters", adapter.name)
            place.parent.mkdir(parents=True, exist_ok=True)
            make_adapter(base, place, zlib.crc32(json.dumps(own).encode()))
        zero = {"stage": 0, "offload": "none", "why": "played"}
        said = {"zero": zero, "tokens": 1, "seconds": 1, "peak_bytes": 0, "too_long": 0, "stopped": {}}
        folder.write_text("run.json", json.dumps(said))

    patch.setattr("cp_ray.training.fit.fit", fit)


def small(root: Path, base: Path, *more: str) -> list[str]:
    """What makes a study short."""
    return [
        "--root",
        str(root),
        "--base-model",
        str(base),
        "--workers",
        "1",
        "--questions",
        "3",
        "--answers",
        "4",
        *more,
    ]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_people_that_was_not_asked_is_learnt_from_its_neighbours_and_judged_on_its_own(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(tmp_path / "base", context=1024)
    play_training(base, monkeypatch)
    root = tmp_path / "run"
    given = small(root, base, "--samples", "0", "--heldout", "4")
    told = {}
    for name in ("unasked", "resource"):
        recipe = load_recipe(str(JOBS / STUDIES[name].recipe))
        run, planned = plan(recipe, STUDIES[name], given)
        told[name] = ablate(name, STUDIES[name], run, planned, do)
        assert f"Ablation: {name}" in (root / f"ablation-{name}.html").read_text()
    rows = [row[:3] for row in told["unasked"].tables[0].rows]
    for variant in ("its neighbours' answers", "no training"):
        assert (variant, "held-out distance", "german") in rows
    (chart,) = told["unasked"].figures
    assert all(name in chart.svg for name in ("its own answers", "its neighbours&#x27; answers", "no training"))
    assert told["resource"].figures == ()
    assert [row[1] for row in told["resource"].tables[0].rows] == ["fall of the held-out distance"]

    steps = {
        step.name: step for step in plan(load_recipe(str(JOBS / "culturellm.py")), STUDIES["unasked"], given)[1][1]
    }
    asked, near = (run.folder(steps[name]).read(Seed) for name in ("seeds", "neighbours"))
    own = {s.id: s for s in asked}
    for seed in near:
        assert sum(seed.distribution) == pytest.approx(1)
        assert (seed.distribution == own[seed.id].distribution) == (seed.split == "heldout")
    assert set(NEIGHBOURS["german"]).isdisjoint({"german"})
    judged = run.folder(steps["evaluate"]).manifest()
    assert judged is not None
    assert judged.inputs.keys() == {"seeds", "predict"}, "its own answers"


def evaluated(seed: int, distances: dict[str, float]) -> list[Step]:
    """Each model's distance to both cultures' answers to each of eight questions."""
    rows = [
        QuestionScore(model, culture, f"Q{k}", "t", "heldout", far, 0.0)
        for model, far in distances.items()
        for culture in ("german", "greek")
        for k in range(8)
    ]

    def run(folder: Folder, inputs: object) -> pa.Table:
        write_rows(to_table(rows, QuestionScore), folder / "questions" / "rows", QuestionScore)
        return to_table([], Score)

    return [Step("evaluate", ScoreConfig(seed=seed), run, (), Score)]


def test_all_comparisons_of_a_study_are_corrected_as_one_family(tmp_path: Path) -> None:
    """Of the 256 ways to exchange eight answers two are as far apart; two variants have three comparisons each."""
    variants = (Variant("own"), Variant("shared", model="unified"), Variant("none", model="base"))
    study = Study("any.py", "Which?", variants)
    planned = [
        evaluated(0, {"german": 0.1, "greek": 0.1}),
        evaluated(1, {"unified": 0.2}),
        evaluated(2, {"base": 0.3, "unified": 0.9}),
    ]
    (table,) = ablate("which", study, Run(str(tmp_path)), planned, do).tables
    assert [row[:3] for row in table.rows] == [
        (name, "held-out distance", culture) for name in ("shared", "none") for culture in ("german", "greek", OVERALL)
    ]
    assert {row[6] for row in table.rows} == {f"{6 * 2 / 256:.3f}"}
    assert [row[4] for row in table.rows] == ["0.200"] * 3 + ["0.300"] * 3
    (alone,) = ablate("alone", Study("any.py", "Which?", variants[:2]), Run(str(tmp_path)), planned[:2], do).tables
    assert {row[6] for row in alone.rows} == {f"{3 * 2 / 256:.3f}"}
