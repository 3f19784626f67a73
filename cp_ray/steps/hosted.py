"""The steps of hosted fine-tuning: jobs that are started, waited for, and whose models are asked."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from cp_ray.arrow import from_table, to_table
from cp_ray.cultures import Culture
from cp_ray.evals import survey
from cp_ray.evals.answer import AnswerConfig, answer
from cp_ray.evals.nulls import BASE
from cp_ray.exports.config import ALL
from cp_ray.folder import Folder
from cp_ray.llm.ledger import join_parts
from cp_ray.llm.limiter import NO_LIMITS
from cp_ray.pipeline import Step
from cp_ray.progress import Progress, watched
from cp_ray.recipe import Options
from cp_ray.records import Example, Item, Prediction, Seed
from cp_ray.rollout import WORKER_CPUS, rollout
from cp_ray.steps.rows import Inputs, dataset_of
from cp_ray.teacher import Teacher, Terms, check_url
from cp_ray.training.config import UNIFIED
from cp_ray.training.hosted.config import HostedConfig, HostedPoint

__all__ = ["hosted", "hosted_models", "predict_hosted", "submit"]


@dataclass(frozen=True)
class HostedPredictConfig:
    """Which hosted models are asked, and how."""

    model: str
    """The untrained base, which is asked too."""
    url: str
    models: tuple[str, ...]
    """Cultures' ids, or `unified`."""
    cultures: tuple[Culture, ...]
    """Of the seeds."""
    samples: int = 10
    """Answers to each question in each order of its options; their shares stand for the model's distribution."""
    seed: int = 0


class HostedTrainer:
    """Whoever trains; asked before anything is started, or a wrong key would be told when all rows are paid for."""

    def __init__(self, url: str) -> None:
        check_url("trainer-url", url)
        self.url = url

    def check(self) -> None:
        """Make sure that it lets us train.

        Raises:
            TrainerError: nothing answers there, or it refuses the key.
        """
        from cp_ray.training.hosted.config import Patience
        from cp_ray.training.hosted.provider import KEY_VARIABLE, Provider

        with Provider(self.url, os.environ.get(KEY_VARIABLE), Patience(attempts=2)) as provider:
            provider.check()

    def __enter__(self) -> "HostedTrainer":
        return self

    def __exit__(self, *_: object) -> None:
        """It stays up by itself."""


def submit(examples: Step, config: HostedConfig, options: Options, by: HostedTrainer | None = None) -> Step:
    """A culture's hosted training, started; `hosted` waits for it. Those that are started first go on side by side."""

    def run(folder: Folder, inputs: Inputs) -> None:
        from cp_ray.training.hosted.fit import submit as start

        start(config, _own(inputs["examples"], config.culture), options.root)

    return Step(f"submit.{config.culture}", config, run, (examples,), within=by)


def hosted(examples: Step, config: HostedConfig, options: Options) -> Step:
    """A culture's model at OpenAI's: its name and making in `hosted.json`, and a row a step of its training."""

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        from cp_ray.training.hosted.fit import fit_hosted

        return to_table(fit_hosted(config, _own(inputs["examples"], config.culture), folder, options.root), HostedPoint)

    return Step(f"hosted.{config.culture}", config, run, (examples,), HostedPoint)


def predict_hosted(seeds: Step, trained: Sequence[Step], options: Options) -> Step:
    """What the untrained hosted base and every hosted model answer to every culture's held-out questions.

    An interface for chats tells no probabilities of whole answers, so answers are drawn.
    """
    first: HostedConfig = trained[0].config
    names = {step.name: UNIFIED if step.config.culture == ALL else step.config.culture for step in trained}
    config = HostedPredictConfig(
        first.model, first.url, tuple(names.values()), seeds.config.cultures, seed=options.seed
    )

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        rows = [seed for seed in inputs["seeds"].read(Seed) if seed.split == "heldout"]
        items = survey.survey_items(rows, config.cultures, 1)
        models = {BASE: config.model} | {name: _model(inputs[step]) for step, name in names.items()}
        with watched("predict", total=len(items) * len(models), unit="questions") as progress:
            found = [p for name, model in models.items() for p in _drawn(items, name, model, config, options, progress)]
        return to_table(survey.survey_answers(found, rows), Prediction)

    return Step("predict", config, run, (seeds, *trained), Prediction, needs={"CPU": WORKER_CPUS})


def hosted_models(
    examples: Step, options: Options, *, model: str, url: str, unified: bool
) -> tuple[list[Step], list[Step]]:
    """The jobs of all cultures: the steps that start them, and those that wait for them.

    Raises:
        ConfigError: the address is none.
    """
    by = HostedTrainer(url)
    cultures = [culture.id for culture in options.chosen] + ([ALL] if unified else [])
    configs = [HostedConfig(culture, model=model, url=url, seed=options.seed) for culture in cultures]
    return [submit(examples, c, options, by) for c in configs], [hosted(examples, c, options) for c in configs]


def _drawn(
    items: Sequence[Item], name: str, model: str, config: HostedPredictConfig, options: Options, progress: Progress
) -> list[Prediction]:
    given: Terms = options.terms
    # What the options say of limits and money is the teacher's.
    terms = replace(given, limits=NO_LIMITS, budget=None, price=None, fallbacks=(), batch=None)
    asked = AnswerConfig(name, model, config.samples, 1.0, seed=config.seed)
    with Teacher(config.url, model, terms, options.root, by_server=True) as by:
        door = by.door(f"predict.{name}")
        made = rollout(
            dataset_of(to_table(items, Item), blocks=terms.workers), answer, asked, door,
            rows_in=Item, rows_out=Prediction, workers=terms.workers, progress=progress,
        ).materialize()  # fmt: skip
        join_parts(door.ledger)
        by.check_outcome()
        batches = made.iter_batches(batch_format="pyarrow", batch_size=None)
        return [p for block in batches for p in from_table(block, Prediction)]


def _model(folder: Folder) -> str:
    made: dict[str, str] = json.loads(folder.read_text("hosted.json") or "{}")
    return made["model"]


def _own(examples: Folder, culture: str) -> list[Example]:
    """A culture's rows, or every row for `all`."""
    return [e for e in examples.read(Example) if culture in (ALL, e.culture)]
