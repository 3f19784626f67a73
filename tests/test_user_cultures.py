"""A culture that the package does not know goes through a whole recipe, and a served model speaks with its words."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from cp_ray.arrow import to_table
from cp_ray.cultures import CULTURES
from cp_ray.errors import ConfigError
from cp_ray.evals.report import ReportConfig, render
from cp_ray.pipeline import Run, Step, fingerprint
from cp_ray.recipe import Options, load_recipe, parse_recipe
from cp_ray.records import Score, Seed, TrainPoint
from cp_ray.serve import trained
from cp_ray.survey.read import WVS7
from cp_ray.training.card import model_card
from cp_ray.training.config import AdapterConfig, TrainConfig
from cp_ray.training.data import Learnt

ROOT = Path(__file__).parent.parent
BAVARIAN: dict[str, Any] = {
    "id": "bavarian", "adjective": "Bavarian", "people": "Bavarians", "language": "German", "locales": ["de-DE"],
    "countries": ["Bavaria"], "female": "Resi", "male": "Xaver",
}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "cultures.json").write_text(json.dumps([BAVARIAN]))
    lines = [f"Is it {k}?,Yes|No,{country},7|3" for k in range(10) for country in ("Bavaria", "DEU")]
    (tmp_path / "survey.csv").write_text("\n".join(["question,options,country,answers", *lines]) + "\n")
    return tmp_path


def steps_of(files: Path, cultures: str = "bavarian,german") -> dict[str, Step]:
    _, steps = parse_recipe(
        load_recipe(str(ROOT / "jobs" / "demo.py")),
        ["--root", str(files / "run"), "--cultures", cultures, "--cultures-file", str(files / "cultures.json"),
         "--survey", str(files / "survey.csv")],
        "demo",
    )  # fmt: skip
    return {step.name: step for step in steps}


def test_its_seeds_come_from_the_survey_s_own_country(files: Path) -> None:
    run, steps = Run(str(files / "run")), steps_of(files)
    assert run.do(steps["seeds"]).rows == 20
    rows = run.folder(steps["seeds"]).read(Seed)
    assert {row.culture for row in rows} == {"bavarian", "german"}
    assert {row.source for row in rows} == {"survey"}
    assert sum(row.split == "heldout" for row in rows) == 4
    (named,) = [a.cultures for a in steps["train"].config.adapters if a.name == "bavarian"]
    assert named[0].adjective == "Bavarian"


def test_a_changed_word_changes_every_step_that_says_it(files: Path) -> None:
    before = {name: fingerprint(step) for name, step in steps_of(files).items()}
    (files / "cultures.json").write_text(json.dumps([BAVARIAN | {"adjective": "Upper Bavarian"}]))
    after = {name: fingerprint(step) for name, step in steps_of(files).items()}
    assert all(before[name] != after[name] for name in before)


def test_options_choose_among_shipped_and_own(files: Path) -> None:
    options = Options(cultures="all", cultures_file=str(files / "cultures.json"))
    assert len(options.chosen) == 11
    assert options == Options(cultures="all", cultures_file=str(files / "cultures.json"))
    with pytest.raises(ConfigError, match="no culture is called 'bavarian'"):
        Options(cultures="bavarian")


def test_a_trained_model_is_served_with_the_words_it_was_trained_with(files: Path) -> None:
    run, steps = Run(str(files / "run")), steps_of(files)
    run.do(dataclasses.replace(steps["train"], run=lambda folder, inputs: None, remarks=None))
    (files / "cultures.json").unlink()
    spec = trained(run, "run")
    served = {m.id: (m.culture, m.language, m.system) for m in spec.models}
    assert served["bavarian"] == ("bavarian", "German", "You are Bavarian.")
    assert served["german"] == ("german", "German", "You are German.")


def test_of_a_culture_trained_twice_the_last_is_served(files: Path) -> None:
    run = Run(str(files / "run"))
    for adjective in ("Bavarian", "Upper Bavarian"):
        (files / "cultures.json").write_text(json.dumps([BAVARIAN | {"adjective": adjective}]))
        step = steps_of(files, "bavarian")["train.bavarian"]
        step = dataclasses.replace(step, run=lambda folder, inputs: None, remarks=None)
        run.do(step)
        manifest = json.loads((Path(run.folder(step).path) / "manifest.json").read_text())
        manifest["finished"] += adjective  # the clock's seconds are too coarse for a test
        (Path(run.folder(step).path) / "manifest.json").write_text(json.dumps(manifest))
    model, base = trained(run, "run").models
    assert model.system == "You are Upper Bavarian."
    assert (base.id, base.adapter) == ("base", None)


@pytest.mark.parametrize(
    ("method", "learnt", "said", "unsaid"),
    [
        ("lora", Learnt(8, 0), ["A LoRA adapter", "answers that people gave", "| 8 of answers, 0 of"], "dialogues"),
        ("dora", Learnt(8, 2), ["A DoRA adapter", "tags: [dora,", "answers that people gave", "dialogues"], "LoRA"),
        ("qlora", Learnt(0, 2), ["A LoRA adapter", "| qlora, rank", "2405.15145"], "answers that people gave"),
        ("full", Learnt(1200, 0), ["A model with", "| 1,200 of answers"], "adapter"),
    ],
)
def test_a_card_says_what_was_trained_and_on_what(method: str, learnt: Learnt, said: list[str], unsaid: str) -> None:
    adapter = AdapterConfig("german", (CULTURES["german"],))
    config = TrainConfig("smollm2", (adapter,), WVS7, method=method)
    card = model_card(config, adapter, [TrainPoint("german", 1, 1.0, 0.1, 10, 0.5)], learnt)
    assert [text for text in said if text not in card] == []
    assert unsaid not in card


def test_the_card_and_the_report_tell_of_the_survey_and_the_people(tmp_path: Path) -> None:
    german = CULTURES["german"]
    point = TrainPoint("german", 1, 1.0, 0.1, 10, 0.5)
    adapter = AdapterConfig("german", (german,))
    card = model_card(TrainConfig("smollm2", (adapter,), WVS7), adapter, [point], Learnt(8, 0))
    assert "more like Germans did in wave 7 of the World Values Survey\n(DEU)" in card
    assert "doi:10.14281/18241.24" in card
    seed = Seed("german/Q1", "german", "wvs7", "Q1", "t", "So?", ("a", "b"), (0.4, 0.6), 9, "b", "heldout")
    scores = [Score(m, "german", "survey_heldout", "emd", v, 0, 1, 1) for m, v in (
        ("base", 0.4), ("german", 0.1), ("uniform", 0.2), ("scale", 0.09), ("modal", 0.01),
    )]  # fmt: skip
    run = Run(str(tmp_path / "run"))
    made = [
        Step("seeds", ReportConfig((german,), WVS7), lambda f, i: to_table([seed], Seed), rows=Seed),
        Step("evaluate", ReportConfig((german,), WVS7), lambda f, i: to_table(scores, Score), rows=Score),
    ]
    for step in made:
        run.do(step)
    inputs = {step.name: run.folder(step) for step in made}
    page, summary = render(inputs, str(tmp_path / "run"), ReportConfig((german,), WVS7))
    assert "german: nearer to Germans than the untrained base (0.100 against 0.400); NOT nearer than `scale`" in summary
    assert "the real answers of wave 7 of the World Values Survey" in page
