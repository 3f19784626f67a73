"""The steps from training rows to culture models: trained, scored, served, reported on."""

from collections.abc import Sequence

import pyarrow as pa

from cp_ray.arrow import to_table
from cp_ray.cultures import Culture, of
from cp_ray.evals import alignment
from cp_ray.evals import ask as asking
from cp_ray.evals import report as reports
from cp_ray.evals import survey as surveys
from cp_ray.exports.config import ALL
from cp_ray.folder import Folder, write_rows
from cp_ray.pipeline import Step
from cp_ray.progress import watched
from cp_ray.recipe import Options, check_choice, check_least
from cp_ray.records import Example, Prediction, QuestionScore, Score, Seed
from cp_ray.steps.rows import Inputs
from cp_ray.training.config import UNIFIED, AdapterConfig, Placement, TrainConfig
from cp_ray.training.hosted.config import HostedConfig, HostedPoint
from cp_ray.training.said import remarks

__all__ = ["answers", "culture_models", "evaluate", "hosted", "predict", "report", "submit", "train"]


def train(examples: Step, config: TrainConfig, placement: Placement) -> Step:
    """Adapters: the folders `adapters/<name>` (PEFT) and the rows of `log` (TrainPoint).

    The step is called `train`, or `train.german` if that is its only adapter.
    """
    names = [adapter.name for adapter in config.adapters]
    ids = {culture.id for adapter in config.adapters for culture in adapter.cultures}

    def run(folder: Folder, inputs: Inputs) -> None:
        from cp_ray.training.fit import fit

        own = [e for e in inputs["examples"].read(Example) if e.culture in ids]
        with watched(f"train {' '.join(names)}", unit="steps") as progress:
            fit(config, placement, own, folder, progress=progress)

    def said(folder: Folder, inputs: Inputs) -> list[str]:
        return remarks(folder)

    name = "train" if len(names) > 1 else f"train.{names[0]}"
    needs = {"GPU" if placement.use_gpu else "CPU": placement.workers}
    return Step(name, config, run, (examples,), needs=needs, resumes=True, remarks=said)


def submit(examples: Step, config: HostedConfig, options: Options) -> Step:
    """A culture's hosted training, started; `hosted` waits for it. Those that are started first go on side by side."""

    def run(folder: Folder, inputs: Inputs) -> None:
        from cp_ray.training.hosted.fit import submit as start

        start(config, _own(inputs["examples"], config.culture), options.root)

    return Step(f"submit.{config.culture}", config, run, (examples,))


def hosted(examples: Step, config: HostedConfig, options: Options) -> Step:
    """A culture's model at OpenAI's: its name and making in `hosted.json`, and a row a step of its training."""

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        from cp_ray.training.hosted.fit import fit_hosted

        return to_table(fit_hosted(config, _own(inputs["examples"], config.culture), folder, options.root), HostedPoint)

    return Step(f"hosted.{config.culture}", config, run, (examples,), HostedPoint)


def predict(seeds: Step, trained: Sequence[Step], base_model: str, *, workers: int) -> Step:
    """What the untrained base and every adapter answer to every culture's questions."""
    names = tuple(adapter.name for step in trained for adapter in step.config.adapters)
    config = surveys.PredictConfig(base_model, names, seeds.config.cultures)

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        rows = inputs["seeds"].read(Seed)
        adapters = _adapters(trained, inputs)
        with watched("predict", total=2 * len(rows) * (1 + len(adapters)), unit="answers") as progress:
            return to_table(surveys.predict(rows, config, adapters, workers=workers, progress=progress), Prediction)

    return Step("predict", config, run, (seeds, *trained), Prediction)


def evaluate(seeds: Step, predict: Step, config: alignment.ScoreConfig) -> Step:
    """Distances between the models' answers and the people's; question by question in `questions`."""

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        rows = inputs["seeds"].read(Seed)
        questions = alignment.question_scores(inputs[predict.name].read(Prediction), rows, config)
        write_rows(to_table(questions, QuestionScore), folder / "questions" / "rows", QuestionScore)
        return to_table(alignment.summed(questions, config), Score)

    return Step("evaluate", config, run, (seeds, predict), Score)


def answers(seeds: Step, trained: Sequence[Step], config: asking.AskConfig) -> Step:
    """Every culture model's answer to the same question, asked as an application would ask it."""
    cultures: tuple[Culture, ...] = seeds.config.cultures

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        folders = _adapters(trained, inputs)
        own = {of(cultures, name): folder for name, folder in folders.items() if name != UNIFIED}
        return to_table(asking.ask_served_models(inputs["seeds"].read(Seed), config, own), Prediction)

    return Step("serve", config, run, (seeds, *trained), Prediction)


def culture_models(
    seeds: Step,
    examples: Step,
    options: Options,
    *,
    passes: int,
    workers: int,
    gpus: int = 0,
    layers: int | None = None,
    training: str = "joint",
    unified: str = "no",
    objective: str = "answers",
) -> list[Step]:
    """A model per culture from the training rows: trained, scored on the survey, and asked as an application would.

    Args:
        seeds: the survey's questions, of which the held-out ones are the test.
        examples: what to train on.
        options: what every recipe takes; gives the base model, the cultures and the seed of all draws.
        passes: over the training rows.
        workers: CPU workers of training and evaluation.
        gpus: GPUs that train, a worker each, in the place of CPU workers.
        layers: adapt only so many of the base model's layers, the topmost; None for all.
        training: `joint`: all adapters in one run on one base; `separate`: one run each. The adapters are the same.
        unified: `yes`: also one adapter of all cultures.
        objective: as in `TrainConfig`.

    Raises:
        ConfigError: `passes`, `workers` or `layers` is below 1, `gpus` below 0, or a choice is none of those above.
    """
    check_least("gpus", gpus, 0)
    check_choice("training", training, "joint", "separate")
    check_choice("unified", unified, "yes", "no")
    base, source, chosen = options.base_model, seeds.config.source, options.chosen
    adapters = [AdapterConfig(culture.id, (culture,), passes=passes) for culture in chosen]
    if unified == "yes":
        adapters.append(AdapterConfig(UNIFIED, chosen, passes=passes, batch_size=8 * len(chosen)))
    placement = Placement(gpus, use_gpu=True) if gpus else Placement(workers)
    runs = [tuple(adapters)] if training == "joint" else [(adapter,) for adapter in adapters]
    trained = [
        train(
            examples,
            TrainConfig(base, run, source, layers=layers, objective=objective, seed=options.seed),
            placement,
        )
        for run in runs
    ]
    predicted = predict(seeds, trained, base, workers=workers)
    scored = evaluate(seeds, predicted, alignment.ScoreConfig(seed=options.seed))
    return [*trained, predicted, scored, answers(seeds, trained, asking.AskConfig(base))]


def report(steps: Sequence[Step], options: Options) -> Step:
    """One page on a run: `report.html`, and its figures in short in `summary.txt`. `seeds` is one of the steps."""
    source = next(step.config.source for step in steps if step.name == "seeds")
    config = reports.ReportConfig(options.chosen, source)

    def run(folder: Folder, inputs: Inputs) -> None:
        page, summary = reports.render(inputs, options.root, config)
        folder.write_text("report.html", page)
        folder.write_text("summary.txt", summary)

    return Step("report", config, run, tuple(steps), publish=("report.html",))


def _own(examples: Folder, culture: str) -> list[Example]:
    """A culture's rows, or every row for `all`."""
    return [e for e in examples.read(Example) if culture in (ALL, e.culture)]


def _adapters(trained: Sequence[Step], inputs: Inputs) -> dict[str, Folder]:
    return {a.name: inputs[step.name] / "adapters" / a.name for step in trained for a in step.config.adapters}
