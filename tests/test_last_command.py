"""Settings A, then B, then A again, all of whose steps are done: whoever reads the run takes A's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from cp_ray.arrow import to_table
from cp_ray.cli import _peek
from cp_ray.comparison.evaluated import evaluated
from cp_ray.cultures import CULTURES
from cp_ray.errors import RunFolderError
from cp_ray.evals.trained import trained_models
from cp_ray.exports.command import export_run
from cp_ray.folder import Folder
from cp_ray.pipeline import Run, Step, fingerprint
from cp_ray.records import Example, Message, QuestionScore, Score, Seed
from cp_ray.serve import trained
from cp_ray.stages.examples import ExamplesConfig
from cp_ray.stages.seeds import SeedsConfig
from cp_ray.survey.read import WVS7
from cp_ray.training.config import UNIFIED, AdapterConfig, TrainConfig
from tests.doing import do

GERMAN = CULTURES["german"]


@dataclass(frozen=True)
class Of:
    what: str


def made(seed: int, *, unified: bool = False) -> list[Step]:
    """The steps of a recipe with this seed; what each makes says which seed."""
    asked = Seed("german/q", "german", "wvs7", "q", "work", "Is work good?", ("y", "n"), (0.5, 0.5), 10, "y", "train")
    chat = (Message("user", "Is work good?"), Message("assistant", f"As {seed} says."))

    def scores(folder: Folder, inputs: object) -> pa.Table:
        return to_table([Score("german", "german", "survey_heldout", "emd", seed / 10, 0.0, 1.0, 1)], Score)

    seeds = Step("seeds", SeedsConfig((GERMAN,), "0", WVS7), lambda f, g: to_table([asked], Seed), rows=Seed)
    rows = [Example(f"e/{seed}", "german", "answer", "q", chat, ("german/q",), "train", ("y", "n"))]
    examples = Step("examples", ExamplesConfig((GERMAN,), seed=seed), lambda f, g: to_table(rows, Example), (seeds,),
                    Example)  # fmt: skip
    adapters = [AdapterConfig("german", (GERMAN,)), *([AdapterConfig(UNIFIED, (GERMAN, CULTURES["greek"]))] * unified)]
    training = [
        Step(f"train.{one.name}", TrainConfig("smollm2", (one,), WVS7, seed=seed), lambda f, g: None, (examples,))
        for one in adapters
    ]
    return [seeds, examples, *training, Step("evaluate", Of(f"{seed}"), scores, tuple(training), Score)]


def run_of(root: Path, *commands: Sequence[Step]) -> Run:
    run = Run(str(root))
    for steps in commands:
        do(run, steps)
    return run


def test_the_last_command_s_steps_are_read_although_others_were_finished_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = made(1), made(2, unified=True)
    root, train = str(tmp_path / "run"), a[2]
    run = run_of(tmp_path / "run", a, b)
    assert set(trained_models(root).folders) == {"german", UNIFIED}
    do(run, a)
    assert trained_models(root).made == {"german": fingerprint(train)}, "no unified model of other settings"
    served = {model.id: model.adapter for model in trained(run, root).models}
    assert served == {"german": f"{run.folder(train).path}/adapters/german", "base": None}
    assert evaluated(root).steps["evaluate"] == run.folder(a[-1])
    assert "As 1 says." in (export_run(root, str(tmp_path / "out"))[0].read_text("openai/german.jsonl") or "")
    _peek(["examples", "--root", root])
    assert "As 1 says." in capsys.readouterr().out


def test_a_command_that_stops_earlier_or_makes_something_else_leaves_the_trainings_as_they_were(tmp_path: Path) -> None:
    a, b = made(1), made(2, unified=True)
    other = Step("survey_scores", Of("other"), lambda f, g: to_table([], QuestionScore), rows=QuestionScore)
    run = run_of(tmp_path, a, b, a, b[:2], [other])
    assert trained_models(str(tmp_path)).made == {"german": fingerprint(a[2])}
    assert run.last("examples") == [run.folder(b[1])]
    assert run.last("survey_scores") == [run.folder(other)]


def test_a_command_that_fails_has_what_it_came_to(tmp_path: Path) -> None:
    a, b = made(1), made(2, unified=True)
    failing = Step("evaluate", Of("failing"), lambda f, g: 1 / 0, tuple(a[2:3]), Score)
    run = run_of(tmp_path, a, b)
    with pytest.raises(ZeroDivisionError):
        do(run, [*a[:-1], failing])
    assert trained_models(str(tmp_path)).made == {"german": fingerprint(a[2])}
    assert run.last("evaluate") == [run.folder(b[-1])]


def test_a_run_of_before_there_was_word_of_it_is_read_by_time(tmp_path: Path) -> None:
    a, b = made(1), made(2, unified=True)
    run = run_of(tmp_path, a, b)
    (tmp_path / "last.json").unlink()
    assert {f.path for f in run.last("train")} == {run.folder(step).path for step in (a[2], *b[2:4])}
    assert set(trained_models(str(tmp_path)).folders) == {"german", UNIFIED}


def test_a_damaged_word_of_it_is_told_in_one_line(tmp_path: Path) -> None:
    run = run_of(tmp_path, made(1))
    for text in ("{", "[]", '{"steps": 1}'):
        (tmp_path / "last.json").write_text(text)
        with pytest.raises(RunFolderError, match=r"last\.json is damaged") as raised:
            run.done()
        assert "\n" not in str(raised.value)
