"""The evaluations, each as the steps from its items to its scores, for any set of models."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from cp_ray.arrow import to_table
from cp_ray.cultures import Culture
from cp_ray.devices import call_on_device
from cp_ray.evals import alignment, forgetting, survey
from cp_ray.evals.answer import AnswerConfig
from cp_ray.evals.benchmarks.files import read_benchmarks
from cp_ray.evals.benchmarks.harness import harness_version, solve
from cp_ray.evals.benchmarks.scores import BenchmarksConfig, Solved, benchmark_scores
from cp_ray.evals.choose import LocalModels
from cp_ray.evals.hofstede.formulas import read_published
from cp_ray.evals.hofstede.items import HofstedeConfig, hofstede_items
from cp_ray.evals.hofstede.scores import HofstedeScoring, hofstede_scores, published_of
from cp_ray.evals.moderation.families import FAMILIES, Family
from cp_ray.evals.moderation.read import read_task
from cp_ray.evals.moderation.scores import ModerationConfig, moderation_scores
from cp_ray.evals.moderation.state import SetState, set_states
from cp_ray.evals.moderation.tasks import find_tasks
from cp_ray.evals.trained import Trained
from cp_ray.folder import Folder, write_rows
from cp_ray.pipeline import Step
from cp_ray.progress import watched
from cp_ray.records import Item, Prediction, QuestionScore, Score, Seed, TextLoss
from cp_ray.stages.seeds import SeedsConfig, make_seeds
from cp_ray.steps.evaluation import answered, chosen, items, predictions, write_ways
from cp_ray.steps.rows import Inputs
from cp_ray.survey.asking import FRAMES
from cp_ray.survey.read import read_survey
from cp_ray.teacher import Teacher

__all__ = [
    "Compared",
    "Endpoint",
    "benchmarks",
    "forgotten",
    "hofstede",
    "moderation",
    "survey_alignment",
    "trained_seeds",
]


@dataclass(frozen=True)
class Endpoint:
    """A model at a server."""

    name: str
    """In all figures."""
    model: str
    url: str
    by: Teacher


@dataclass(frozen=True)
class Compared:
    """The models that are held against each other."""

    base_model: str
    trained: Trained | None
    adapters: tuple[str, ...]
    endpoints: tuple[Endpoint, ...]
    everywhere: bool
    """Adapters are asked about every culture in moderation and Hofstede; in the survey they always are."""
    workers: int
    seed: int

    @property
    def whole(self) -> bool:
        """The trained models have all weights, and are no adapters."""
        return self.trained is not None and self.trained.whole

    @property
    def made(self) -> tuple[str, ...]:
        """Of each trained model, the fingerprint of its training."""
        return tuple(self.trained.made[name] for name in self.adapters) if self.trained else ()

    @property
    def folders(self) -> dict[str, Folder]:
        """Of the trained models, by name."""
        return {name: self.trained.folders[name] for name in self.adapters} if self.trained else {}


@dataclass(frozen=True)
class SeedsOf:
    """Questions of a run that trained."""

    asked: str
    """The fingerprint of its step."""
    cultures: tuple[Culture, ...]
    survey: str = ""
    """What the survey holds that the other cultures' answers are from, as a hash."""


@dataclass(frozen=True)
class SurveyItems:
    """How the survey is put."""

    cultures: tuple[Culture, ...]
    frames: tuple[str, ...]


@dataclass(frozen=True)
class ModerationItems:
    """Which test sets are read, and what is asked about them."""

    files: tuple[tuple[str, str], ...]
    """Task and SHA-256 of its file."""
    cultures: tuple[Culture, ...]
    families: tuple[tuple[str, Family], ...]
    rows: int | None
    characters: int


def trained_seeds(trained: Trained, also: Sequence[Culture] = (), survey: Path | None = None) -> Step:
    """The questions that a run's models were trained on, and those that were kept from them.

    Args:
        trained: the run's models.
        also: cultures that none of them was trained on, with their answers to the same questions.
        survey: file with these; None for the shipped one.

    Raises:
        SurveyError, ConfigError: the survey cannot be read, or such a culture was asked nothing in it.
    """
    known = tuple(trained.cultures.values())
    if not also:
        config = SeedsOf(trained.asked, known)
        return Step("survey_seeds", config, lambda folder, inputs: to_table(trained.seeds.read(Seed), Seed), rows=Seed)
    read = read_survey(survey)
    others = make_seeds(SeedsConfig(tuple(also), read.content, read.source), read.items)

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        own = trained.seeds.read(Seed)
        split = {(seed.question_id, seed.question, seed.options): seed.split for seed in own}
        same = [(seed, split.get((seed.question_id, seed.question, seed.options))) for seed in others]
        return to_table([*own, *(replace(seed, split=kept) for seed, kept in same if kept)], Seed)

    return Step("survey_seeds", SeedsOf(trained.asked, (*known, *also), read.content), run, rows=Seed)


def survey_alignment(seeds: Step, compared: Compared, *, wordings: int, samples: int) -> list[Step]:
    """Every model's answers to every culture's questions, and their distances to the people's."""
    cultures = seeds.config.cultures
    config = SurveyItems(cultures, FRAMES[:wordings])
    asked = items(
        "survey_items", config,
        lambda inputs: survey.survey_items(inputs[seeds.name].read(Seed), cultures, wordings), (seeds,),
    )  # fmt: skip
    made = _put("survey_choices", asked, compared, everywhere=True, samples=samples, temperature=1.0)
    scoring = alignment.ScoreConfig(seed=compared.seed)

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        rows = inputs[seeds.name].read(Seed)
        told = predictions(inputs, made)
        write_ways(folder, told)
        answers = survey.survey_answers(told, rows)
        write_rows(to_table(answers, Prediction), folder / "answers" / "rows", Prediction)
        questions = alignment.question_scores(answers, rows, scoring)
        write_rows(to_table(questions, QuestionScore), folder / "questions" / "rows", QuestionScore)
        return to_table(alignment.summed(questions, scoring), Score)

    return [asked, *made, Step("survey_scores", scoring, run, (seeds, *made), Score)]


def moderation(
    root: Path, known: dict[str, Culture], compared: Compared, *, rows: int | None, characters: int
) -> list[Step]:
    """Every model on every test set of a folder.

    Raises:
        ConfigError: the folder has none of the sets.
    """
    found = [(task, path) for task, path in find_tasks(root) if task.culture in known]
    cultures = {task.culture: known[task.culture] for task, _ in found}
    files = tuple((task.id, hashlib.sha256(path.read_bytes()).hexdigest()) for task, path in found)
    config = ModerationItems(files, tuple(cultures.values()), tuple(FAMILIES.items()), rows, characters)

    def read(inputs: Inputs) -> list[Item]:
        return [
            item for task, path in found
            for item in read_task(task, path, cultures[task.culture], rows=rows, characters=characters)
        ]  # fmt: skip

    asked = items("moderation_items", config, read)
    made = _put("moderation_choices", asked, compared, everywhere=compared.everywhere, samples=1, temperature=0.0)
    scoring = ModerationConfig(seed=compared.seed)

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        every = inputs[asked.name].read(Item)
        write_rows(to_table(set_states(every), SetState), folder / "sets" / "rows", SetState)
        told = predictions(inputs, made)
        write_ways(folder, told)
        return to_table(moderation_scores(every, told, scoring), Score)

    def said(folder: Folder, inputs: Inputs) -> list[str]:
        states = (folder / "sets").read(SetState)
        return [f"{s.task} in no average: {s.left_out}" for s in states if s.left_out]

    return [asked, *made, Step("moderation_scores", scoring, run, (asked, *made), Score, remarks=said)]


def hofstede(published: Path, config: HofstedeConfig, compared: Compared) -> list[Step]:
    """Simulated respondents' answers, and their dimensions beside the published ones.

    Raises:
        ConfigError: the file of published scores cannot be read or lacks a culture's row.
    """
    truth = published_of(read_published(published), {c.id: c.hofstede for c in config.cultures})
    asked = items("hofstede_items", config, lambda inputs: hofstede_items(config))
    made = _put("hofstede_choices", asked, compared, everywhere=compared.everywhere, samples=1, temperature=1.0)
    scoring = HofstedeScoring(truth, seed=compared.seed)

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        told = predictions(inputs, made)
        write_ways(folder, told)
        return to_table(hofstede_scores(told, scoring), Score)

    return [asked, *made, Step("hofstede_scores", scoring, run, tuple(made), Score)]


def forgotten(compared: Compared) -> list[Step]:
    """What training has cost on neutral text."""
    config = forgetting.ForgettingConfig(
        compared.base_model, compared.adapters, forgetting.neutral_texts(), seed=compared.seed, whole=compared.whole
    )

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        losses = call_on_device(forgetting.text_losses, config, compared.folders)
        write_rows(to_table(losses, TextLoss), folder / "texts" / "rows", TextLoss)
        return to_table(forgetting.forgetting_scores(losses, config), Score)

    return [Step("forgetting_scores", ForgottenBy(config, compared.made), run, (), Score)]


def benchmarks(root: Path, compared: Compared, *, rows: int | None) -> list[Step]:
    """What training has cost on BBH and GSM8K.

    Raises:
        ConfigError: lm-evaluation-harness is not installed, or the folder lacks the files.
    """
    version = harness_version()
    found = read_benchmarks(root)
    files = tuple((one.name, one.content) for one in found)
    config = BenchmarksConfig(compared.base_model, compared.adapters, files, version, rows, whole=compared.whole)

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        items = sum(min(one.items, rows or one.items) for one in found)
        with watched("benchmarks", total=items * (1 + len(compared.adapters)), unit="answers") as progress:
            solved = call_on_device(solve, config, found, compared.folders, lambda n: progress.add(done=n))
        write_rows(to_table(solved, Solved), folder / "solved" / "rows", Solved)
        return to_table(benchmark_scores(solved), Score)

    return [Step("benchmarks_scores", BenchmarkedBy(config, compared.made), run, (), Score)]


@dataclass(frozen=True)
class BenchmarkedBy:
    """Which trainings are looked at, and how."""

    config: BenchmarksConfig
    made: tuple[str, ...]


@dataclass(frozen=True)
class ForgottenBy:
    """Which trainings are looked at, and how."""

    config: forgetting.ForgettingConfig
    made: tuple[str, ...]


def _put(
    name: str, asked: Step, compared: Compared, *, everywhere: bool, samples: int, temperature: float
) -> list[Step]:
    """The items, put to all models."""
    local = LocalModels(compared.base_model, compared.adapters, everywhere, compared.whole)
    steps = [chosen(name, asked, local, compared.folders, compared.made, workers=compared.workers)]
    for endpoint in compared.endpoints:
        config = AnswerConfig(
            endpoint.name, endpoint.model, samples=samples, temperature=temperature, seed=compared.seed,
            url=endpoint.url,
        )  # fmt: skip
        steps.append(answered(name, asked, config, endpoint.by))
    return steps
