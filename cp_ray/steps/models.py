"""The steps from training rows to culture models: trained, scored, served, reported on."""

import importlib.util
from collections.abc import Sequence

import pyarrow as pa

from cp_ray.arrow import to_table
from cp_ray.cultures import Culture, of
from cp_ray.errors import ConfigError
from cp_ray.evals import alignment
from cp_ray.evals import ask as asking
from cp_ray.evals import report as reports
from cp_ray.evals import survey as surveys
from cp_ray.folder import Folder, write_rows
from cp_ray.pipeline import Step
from cp_ray.progress import watched
from cp_ray.recipe import Options
from cp_ray.records import Example, Prediction, QuestionScore, Score, Seed
from cp_ray.steps.hosted import hosted_models, predict_hosted
from cp_ray.steps.model_options import ModelOptions
from cp_ray.steps.rows import Inputs
from cp_ray.training.config import UNIFIED, Placement, TrainConfig
from cp_ray.training.said import remarks

__all__ = ["answers", "culture_models", "evaluate", "predict", "report", "train"]


def train(examples: Step, config: TrainConfig, placement: Placement) -> Step:
    """Adapters: the folders `adapters/<name>` (PEFT) and the rows of `log` (TrainPoint).

    The step is called `train`, or `train.german` if that is its only adapter.

    Raises:
        ConfigError: the method is `qlora`, and the package for it is not installed.
    """
    if config.method == "qlora":
        _check_four_bits()
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


def _check_four_bits() -> None:
    """Before anything is paid for that is to be trained on."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "tuning: qlora keeps the base in 4 bits by bitsandbytes, which is not installed; pip install -e "
            "'.[qlora]' on every node, or choose lora"
        )


def predict(seeds: Step, trained: Sequence[Step], base_model: str, *, workers: int) -> Step:
    """What the untrained base and every adapter, or whole model, answer to every culture's questions."""
    names = tuple(adapter.name for step in trained for adapter in step.config.adapters)
    config = surveys.PredictConfig(base_model, names, seeds.config.cultures, whole=_whole(trained))

    def run(folder: Folder, inputs: Inputs) -> pa.Table:
        rows = inputs["seeds"].read(Seed)
        models = _models(trained, inputs)
        with watched("predict", total=2 * len(rows) * (1 + len(models)), unit="answers") as progress:
            made = surveys.predict(rows, config, models, workers=workers, progress=progress)
        return to_table(made, Prediction)

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
        folders = _models(trained, inputs)
        own = {of(cultures, name): folder for name, folder in folders.items() if name != UNIFIED}
        return to_table(asking.ask_served_models(inputs["seeds"].read(Seed), config, own), Prediction)

    return Step("serve", config, run, (seeds, *trained), Prediction)


def culture_models(seeds: Step, examples: Step, options: Options, models: ModelOptions) -> list[Step]:
    """A model per culture from the training rows: trained, scored on the survey, and asked as an application would.

    Args:
        seeds: the survey's questions, of which the held-out ones are the test.
        examples: what to train on.
        options: what every recipe takes; gives the base model, the cultures and the seed of all draws.
        models: how they are trained. Whole models (`full`) are served by `cp-ray serve` alone.

    Raises:
        ConfigError: an option breaks its rule, or `tuning` is `qlora` without the package for it.
    """
    scoring = alignment.ScoreConfig(seed=options.seed)
    if models.trainer == "openai":
        if options.base_model != Options.base_model:
            raise ConfigError(
                f"base-model: the hosted trainer trains --trainer-model, got {options.base_model!r}; leave it out"
            )
        started, hosted = hosted_models(
            examples, options, model=models.trainer_model, url=models.trainer_url, unified=models.unified == "yes"
        )
        predicted = predict_hosted(seeds, hosted, options)
        return [*started, *hosted, predicted, evaluate(seeds, predicted, scoring)]
    placement = models.placement
    trained = [train(examples, config, placement) for config in models.runs(options, seeds.config.source)]
    predicted = predict(seeds, trained, options.base_model, workers=models.workers)
    made = [*trained, predicted, evaluate(seeds, predicted, scoring)]
    if models.tuning == "full":
        return made
    return [*made, answers(seeds, trained, asking.AskConfig(options.base_model))]


def report(steps: Sequence[Step], options: Options) -> Step:
    """One page on a run: `report.html`, and its figures in short in `summary.txt`. `seeds` is one of the steps."""
    source = next(step.config.source for step in steps if step.name == "seeds")
    config = reports.ReportConfig(options.chosen, source)

    def run(folder: Folder, inputs: Inputs) -> None:
        page, summary = reports.render(inputs, options.root, config)
        folder.write_text("report.html", page)
        folder.write_text("summary.txt", summary)

    return Step("report", config, run, tuple(steps), publish=("report.html",))


def _whole(trained: Sequence[Step]) -> bool:
    """Whole models and no adapters?"""
    return any(step.config.method == "full" for step in trained)


def _models(trained: Sequence[Step], inputs: Inputs) -> dict[str, Folder]:
    """The folders of adapters, or of whole models, by name."""
    kept = "models" if _whole(trained) else "adapters"
    return {a.name: inputs[step.name] / kept / a.name for step in trained for a in step.config.adapters}
