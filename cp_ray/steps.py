"""The pipeline's steps: each function gives one `Step`, to be composed by a recipe in jobs/.

Here, and only here, stages meet the run folder, Ray and the teacher.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cp_ray.cultures import Culture
from cp_ray.evals import ask as asking
from cp_ray.evals import report as reports
from cp_ray.evals import survey as surveys
from cp_ray.llm.limiter import Limits
from cp_ray.pipeline import Folder, Step
from cp_ray.progress import watched
from cp_ray.recipe import Options
from cp_ray.records import Dialogue, Example, Opinion, Prediction, Score, Seed, to_table
from cp_ray.rollout import Stage, rollout
from cp_ray.stages.dedup import DedupConfig
from cp_ray.stages.dedup import dedup as keep_medoids
from cp_ray.stages.dialogue import DialogueConfig
from cp_ray.stages.dialogue import dialogue as hold_dialogue
from cp_ray.stages.examples import ExamplesConfig, make_examples
from cp_ray.stages.extract import ExtractConfig
from cp_ray.stages.extract import extract as extract_opinions
from cp_ray.stages.seeds import SeedsConfig, make_seeds, pick
from cp_ray.stages.verify import VerifyConfig
from cp_ray.stages.verify import verify as verify_opinion
from cp_ray.survey.read import read_survey
from cp_ray.teacher import Teacher, Terms
from cp_ray.training.config import Placement, TrainConfig

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = [
    "answers", "dedup", "dialogue", "evaluate", "examples", "extract", "predict", "report", "seeds", "teacher",
    "train", "verify",
]  # fmt: skip

Inputs = Mapping[str, Folder]


def teacher(options: Options) -> Teacher:
    """The model that generates; the same object for all generating steps of a run."""
    return Teacher(options.teacher_url, options.teacher_model, Terms(Limits(options.rpm, options.tpm)), options.root)


def seeds(options: Options, *, questions: int | None = None, heldout: int | None = None) -> Step:
    """Survey questions with each culture's real answers.

    Args:
        options: what every recipe takes.
        questions: training questions, spread over the topics; None for all.
        heldout: questions kept for the test; None for a fifth.

    Raises:
        SurveyError, ConfigError: the survey file or the choice of cultures is wrong; nothing has been started.
    """
    survey = read_survey(Path(options.survey) if options.survey else None)
    config = SeedsConfig(options.chosen, survey.content, survey.source, heldout=heldout, questions=questions)
    rows = make_seeds(config, survey.items)
    return Step("seeds", config, lambda folder, inputs: to_table(rows, Seed), rows=Seed)


def dialogue(seeds: Step, by: Teacher, config: DialogueConfig) -> Step:
    """Talks between a main contact and a delegate who holds the survey's view."""

    def run(folder: Folder, inputs: Inputs) -> "Dataset":
        chosen = pick(inputs["seeds"].read(Seed), config.per_culture)
        return _rollout("dialogue", to_table(chosen, Seed), hold_dialogue, config, by, Seed, Dialogue)

    return Step("dialogue", config, run, (seeds,), Dialogue, within=by)


def extract(dialogue: Step, by: Teacher, config: ExtractConfig) -> Step:
    """The opinions in the delegates' utterances."""

    def run(folder: Folder, inputs: Inputs) -> "Dataset":
        held = _counting(inputs["dialogue"].table())
        return _rollout("extract", held, extract_opinions, config, by, Dialogue, Opinion)

    return Step("extract", config, run, (dialogue,), Opinion, within=by)


def verify(extract: Step, by: Teacher, config: VerifyConfig) -> Step:
    """The opinions that agree with the survey, some of them rewritten."""

    def run(folder: Folder, inputs: Inputs) -> "Dataset":
        found = _counting(inputs["extract"].table())
        return _rollout("verify", found, verify_opinion, config, by, Opinion, Opinion)

    return Step("verify", config, run, (extract,), Opinion, within=by)


def dedup(verify: Step, config: DedupConfig) -> Step:
    """The opinions without those that say the same."""

    def run(folder: Folder, inputs: Inputs) -> "Dataset | pa.Table":
        verified = _counting(inputs["verify"].table())
        return keep_medoids(_dataset(verified), config) if verified.num_rows else verified

    return Step("dedup", config, run, (verify,), Opinion)


def examples(seeds: Step, dedup: Step, config: ExamplesConfig) -> Step:
    """Chats to train on, from the training questions alone."""

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        rows = make_examples(inputs["seeds"].read(Seed), inputs["dedup"].read(Opinion), config)
        return to_table(rows, Example)

    return Step("examples", config, run, (seeds, dedup), Example)


def train(examples: Step, config: TrainConfig, placement: Placement) -> Step:
    """One culture's adapter: the folder `adapter` (PEFT) and the rows of `log` (TrainPoint)."""

    def run(folder: Folder, inputs: Inputs) -> None:
        from cp_ray.training.fit import fit

        own = [e for e in inputs["examples"].read(Example) if e.culture == config.culture.id]
        with watched(f"train {config.culture.id}", unit="steps") as progress:
            fit(config, placement, own, folder, progress=progress)

    return Step(f"train.{config.culture.id}", config, run, (examples,))


def predict(seeds: Step, trained: Sequence[Step], base_model: str, *, workers: int) -> Step:
    """What the untrained base and every adapter answer to every culture's questions."""
    config = surveys.PredictConfig(base_model, tuple(step.config.culture.id for step in trained), seeds.config.cultures)

    def run(folder: Folder, inputs: Inputs) -> "Dataset":
        rows = inputs["seeds"].read(Seed)
        adapters = {culture.id: folder for culture, folder in _adapters(trained, inputs).items()}
        with watched("predict", total=len(rows) * (1 + len(adapters)), unit="answers") as progress:
            made: Dataset = surveys.predict(rows, config, adapters, workers=workers, progress=progress).materialize()
            return made

    return Step("predict", config, run, (seeds, *trained), Prediction)


def evaluate(seeds: Step, predict: Step, config: surveys.ScoreConfig) -> Step:
    """Distances between the models' answers and the people's."""

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        scores = surveys.score(inputs["predict"].read(Prediction), inputs["seeds"].read(Seed), config)
        return to_table(scores, Score)

    return Step("evaluate", config, run, (seeds, predict), Score)


def answers(seeds: Step, trained: Sequence[Step], config: asking.AskConfig) -> Step:
    """Every culture model's answer to the same question, asked as an application would ask it."""

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        rows = asking.ask_served_models(inputs["seeds"].read(Seed), config, _adapters(trained, inputs))
        return to_table(rows, Prediction)

    return Step("serve", config, run, (seeds, *trained), Prediction)


def report(steps: Sequence[Step], options: Options) -> Step:
    """One page on a run: `report.html`, and its figures in short in `summary.txt`. `seeds` is one of the steps."""
    source = next(step.config.source for step in steps if step.name == "seeds")
    config = reports.ReportConfig(options.chosen, source)

    def run(folder: Folder, inputs: Inputs) -> None:
        page, summary = reports.render(inputs, options.root, config)
        folder.write_text("report.html", page)
        folder.write_text("summary.txt", summary)

    return Step("report", config, run, tuple(steps), publish=("report.html",))


def _rollout(
    name: str, rows: pa.Table, stage: Stage[Any, Any, Any], config: Any, by: Teacher, row_in: type, row_out: type
) -> "Dataset":
    with watched(name, total=rows.num_rows, unit="rows") as progress:
        made: Dataset = rollout(
            _dataset(rows), stage, config, by.door(name), rows_in=row_in, rows_out=row_out, progress=progress
        ).materialize()
        return made


def _dataset(rows: pa.Table) -> "Dataset":
    import ray.data

    return ray.data.from_arrow(rows)


def _counting(rows: pa.Table) -> pa.Table:
    """The rows that were not set aside."""
    import pyarrow.compute as pc

    return rows.filter(pc.is_null(rows["reject"]))


def _adapters(trained: Sequence[Step], inputs: Inputs) -> dict[Culture, Folder]:
    return {step.config.culture: inputs[step.name] / "adapter" for step in trained}
