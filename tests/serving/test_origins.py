import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from cp_ray.arrow import to_table
from cp_ray.cultures import CULTURES
from cp_ray.folder import Manifest, open_folder, write_rows
from cp_ray.records import Score, Seed
from cp_ray.serving.api import build_api
from cp_ray.serving.chat import ModelSpec
from cp_ray.serving.origins import Origin, origins
from cp_ray.serving.service import Service
from cp_ray.survey.items import Source
from cp_ray.survey.read import WVS7
from tests.serving.fake import Fake


def step(
    root: Path, name: str, fingerprint: str, inputs: dict[str, str], finished: str = "", config: Any = None
) -> Path:
    folder = root / f"{name}-{fingerprint}"
    folder.mkdir(parents=True)
    manifest = Manifest(name, fingerprint, config or {}, inputs, finished=finished)
    (folder / "manifest.json").write_text(json.dumps(dataclasses.asdict(manifest)))
    return folder


def evaluated(root: Path, fingerprint: str, predicted: str, finished: str, *scores: Score) -> None:
    folder = step(root, "evaluate", fingerprint, {"seeds": "s", "predict": predicted}, finished)
    write_rows(to_table(scores, Score), open_folder(str(folder)) / "rows", Score)


def score(model: str, value: float, task: str = "survey_heldout", high: float = 0.4) -> Score:
    return Score(model, "german", task, "emd", value, 0.1, high, 10)


def run_folder(root: Path) -> Path:
    """Two trainings, each evaluated; the second evaluation of the first one is of the two."""
    (root / "run.json").write_text(json.dumps({"format": 1}))
    for training, predicted in (("t1", "p1"), ("t2", "p2")):
        step(root, "train", training, {"examples": "e"})
        step(root, "predict", predicted, {"seeds": "s", "train": training})
    evaluated(root, "e1", "p1", "2026-01-01", score("german", 0.9))
    mine = [score("german", 0.2, high=math.inf), score("german", 0.7, "survey_train"), score("arabic", 0.3)]
    evaluated(root, "e3", "p1", "2026-01-03", *mine)
    evaluated(root, "e2", "p2", "2026-01-04", score("german", 0.5))
    return root


def test_an_adapter_s_training_and_its_held_out_scores_are_told_with_its_model(tmp_path: Path) -> None:
    root = run_folder(tmp_path)
    german = str(root / "train-t1" / "adapters" / "german")
    models = (ModelSpec("german", german, "german"), ModelSpec("base"))
    service = Service(Fake(), "smollm2", models, origins=origins([german, None]))
    http = TestClient(build_api(service))
    listed: list[dict[str, Any]] = http.get("/v1/models").json()["data"]
    name = f"{root.name}/train-t1"
    figures = {"culture": "german", "task": "survey_heldout", "metric": "emd", "value": 0.2, "low": 0.1, "high": None}
    assert [(m["training_run"], m["scores"]) for m in listed] == [(name, [figures | {"questions": 10}]), (None, [])]
    # What is known of one version is not said of the next.
    service.traffic.offer("german", service.traffic.candidate("german", "2", "elsewhere"), 1)
    service.traffic.promote("german")
    assert http.get("/v1/models/german").json()["training_run"] is None


def test_an_adapter_without_an_evaluation_or_a_run_is_served_all_the_same(tmp_path: Path) -> None:
    step(tmp_path, "train.german", "t", {"examples": "e"})
    (tmp_path / "run.json").write_text(json.dumps({"format": 1}))
    german, alone = str(tmp_path / "train.german-t" / "adapters" / "german"), str(tmp_path / "copied" / "german")
    found = origins([german, alone])
    assert {adapter: (o.training_run, o.scores) for adapter, o in found.items()} == {
        german: (f"{tmp_path.name}/train.german-t", ())
    }


def test_a_run_that_cannot_be_read_is_logged(tmp_path: Path, caplog: Any) -> None:
    folder = step(tmp_path, "train", "t", {})
    (folder / "manifest.json").write_text("{")
    assert origins([str(folder / "adapters" / "german")]) == {}
    assert "is damaged" in caplog.text


def asked(culture: str, question: str, source: str, distribution: tuple[float, ...]) -> Seed:
    options = ("Often", "Never")
    return Seed(f"{culture}/{question}", culture, source, question, "sea", "Do you sail?", options, distribution, 9,
                "Often", "train")  # fmt: skip


def quiz_of(root: Path, culture: str, source: Source, *seeds: Seed) -> dict[str, dict[str, Any]]:
    """The questions that are asked about a culture, with the answers, where its model is of a run that had these."""
    (root / "run.json").write_text(json.dumps({"format": 1}))
    step(root, "train", "t", {"examples": "e"})
    step(root, "examples", "e", {"leakage": "l", "seeds": "s"})
    folder = step(root, "seeds", "s", {}, config={"source": dataclasses.asdict(source)})
    write_rows(to_table(seeds, Seed), open_folder(str(folder)) / "rows", Seed)
    adapter = str(root / "train-t" / "adapters" / culture)
    cultures = [CULTURES[culture]] if culture in CULTURES else []
    service = Service(Fake(), "smollm2", [ModelSpec(culture, adapter, culture)], cultures, origins=origins([adapter]))
    http = TestClient(build_api(service))
    quiz: dict[str, Any] = http.get("/v1/education/quiz", params={"culture": culture}).json()
    assert quiz["survey"] == {"name": source.name, "terms": source.terms}
    marked = {}
    for question in quiz["questions"]:
        body = {"culture": culture, "question": question["id"], "option": 0}
        marked[question["id"]] = http.post("/v1/education/quiz", json=body).json()
    return marked


def test_the_quiz_asks_what_the_run_s_own_survey_asked_also_about_a_culture_of_the_user_s_own(tmp_path: Path) -> None:
    seeds = [asked("sailors", "S1", "ports", (0.75, 0.25)), asked("farmers", "S2", "ports", (0.5, 0.5))]
    marked = quiz_of(tmp_path, "sailors", Source("ports", "the survey 'ports'", "Ask the harbour."), *seeds)
    assert {id: (m["options"], m["distribution"]) for id, m in marked.items()} == {
        "S1": (["Often", "Never"], [0.75, 0.25])
    }


def test_a_question_may_have_any_number_of_options_to_guess_the_shares_of() -> None:
    shares = (0.12, *[0.08] * 11)
    seed = dataclasses.replace(
        asked("sailors", "S1", "ports", shares), options=tuple(f"Port {k}" for k in range(len(shares)))
    )
    survey = Source("ports", "the survey 'ports'", "Ask the harbour.")
    found = {"a": Origin("run/train-t", (), survey, (seed,))}
    service = Service(Fake(), "smollm2", [ModelSpec("sailors", "a", "sailors")], origins=found)
    body = {"culture": "sailors", "question": "S1", "shares": shares}
    marked = TestClient(build_api(service)).post("/v1/education/quiz", json=body).json()
    assert marked["distribution"] == list(shares)
    assert math.isclose(marked["score"], 1)


def test_a_run_that_used_a_part_of_the_shipped_questions_leaves_the_others_to_be_asked(tmp_path: Path) -> None:
    marked = quiz_of(tmp_path, "german", WVS7, asked("german", "Q27", "wvs7", (0.75, 0.25)))
    assert len(marked) > 40
    assert marked["Q27"]["distribution"] == [0.75, 0.25]
