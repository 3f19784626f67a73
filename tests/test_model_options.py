"""How models are trained, as a recipe's command line says it."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from cp_ray import steps
from cp_ray.arrow import to_table
from cp_ray.errors import ConfigError
from cp_ray.pipeline import Run, Step, select
from cp_ray.recipe import Options, parse_recipe
from cp_ray.records import Example, TrainPoint
from cp_ray.stages.seeds import CandidatesConfig
from cp_ray.steps.model_options import ModelOptions
from cp_ray.survey.read import WVS7
from tests.doing import do
from tests.tiny import make_base
from tests.training.ranks import EXAMPLES

OTHER = {
    "tuning": "dora", "training": "separate", "unified": "yes", "objective": "distribution", "passes": 4,
    "batch_size": 3, "learning_rate": 0.01, "rank": 5, "alpha": 7, "layers": 2, "max_tokens": 99, "dtype": "float32",
    "validation": 0.2, "validate_every": 3, "patience": 2, "workers": 3, "gpus": 4, "micro_tokens": 77, "packing": "no",
    "gradient_checkpointing": "yes", "zero_stage": 1, "offload": "optimizer", "checkpoint_every": 6,
}  # fmt: skip
HOSTED = {"trainer", "trainer_model", "trainer_url"}


def few(options: Options, *, models: ModelOptions = ModelOptions(batch_size=2)) -> list[Step]:
    """A recipe.

    Args:
        options: what every recipe takes
        models: how
    """
    seeds = steps.seeds(options, questions=2, heldout=2)
    rows = Step("examples", CandidatesConfig(), lambda folder, inputs: to_table(EXAMPLES, Example), rows=Example)
    return [seeds, rows, *steps.culture_models(seeds, rows, options, models)]


def test_each_option_changes_how_or_where_it_is_trained() -> None:
    def made(**given: Any) -> Any:
        models = ModelOptions(**given)
        return models.runs(Options(), WVS7), models.placement

    assert OTHER.keys() | HOSTED | {"deepspeed"} == {f.name for f in fields(ModelOptions)}
    plain = {"validation": 0.1}  # patience needs it
    for name, value in OTHER.items():
        assert made(**plain) != made(**{**plain, name: value}), name


def test_they_come_to_the_command_line_with_the_recipes_own_defaults(tmp_path: Path) -> None:
    def train(*given: str) -> Any:
        return next(
            s.config for s in parse_recipe(few, ["--root", str(tmp_path), *given], "test")[1] if s.name == "train"
        )

    assert train().adapters[0].batch_size == 2
    asked = train(
        "--batch-size", "5", "--learning-rate", "0.5", "--rank", "3", "--validation", "0.3", "--patience", "4"
    )
    assert (asked.rank, asked.alpha, asked.validation) == (3, 6, 0.3)
    for adapter in asked.adapters:
        assert (adapter.batch_size, adapter.learning_rate, adapter.patience) == (5, 0.5, 4)


def test_the_unified_model_takes_as_many_prompts_of_each_culture() -> None:
    (run,) = ModelOptions(unified="yes", batch_size=3).runs(Options(cultures="german,greek,arabic"), WVS7)
    assert [adapter.batch_size for adapter in run.adapters] == [3, 3, 3, 9]
    apart = ModelOptions(unified="yes", training="separate").runs(Options(), WVS7)
    assert [[a.name for a in run.adapters] for run in apart] == [["arabic"], ["german"], ["unified"]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tuning": "lara"}, "tuning: must be lora, dora, qlora or full, got 'lara'; did you mean 'lora'?"),
        ({"trainer": "azure"}, "trainer: must be local or openai, got 'azure'"),
        ({"packing": "true"}, "packing: must be yes or no, got 'true'"),
        ({"gradient_checkpointing": "on"}, "gradient-checkpointing: must be yes or no, got 'on'"),
        ({"workers": 0, "gpus": 1}, "workers: must be at least 1, got 0"),
        ({"gpus": -1}, "gpus: must be at least 0, got -1"),
        ({"passes": 0}, "passes: must be at least 1, got 0"),
        ({"learning_rate": 2.0}, "learning_rate: must be between 0 and 1, got 2.0"),
        ({"layers": 0}, "layers: must be at least 1, or None for all, got 0"),
        ({"patience": 2}, "patience: arabic is to stop early, but validation is 0; give it a share, say 0.1"),
        ({"zero_stage": 4}, "zero_stage: must be 0, 1, 2 or 3, got 4"),
        ({"offload": "disk"}, "offload: must be none, optimizer or all, got 'disk'"),
        ({"micro_tokens": 8}, "micro_tokens: must be at least 16, got 8"),
        ({"deepspeed": "no/such.json"}, "deepspeed: cannot read no/such.json"),
        ({"trainer_model": "gpt"}, "trainer-model: needs --trainer openai, got 'gpt'; leave it out"),
        ({"trainer_url": "http://t/v1"}, "trainer-url: needs --trainer openai, got 'http://t/v1'; leave it out"),
        ({"tuning": "full", "rank": 8}, "rank: full has no adapters, got 8; leave it out"),
        ({"tuning": "full", "alpha": 8}, "alpha: full has no adapters, got 8; leave it out"),
        ({"tuning": "full", "dtype": "bfloat16", "zero_stage": 0}, "zero-stage: all weights of a bfloat16 base need 1"),
        ({"validate_every": 0}, "validate_every: must be at least 1, got 0"),
        ({"trainer": "openai", "rank": 8}, "rank: the hosted trainer chooses that itself, got 8; leave it out"),
        ({"trainer": "openai", "zero_stage": 2}, "zero-stage: the hosted trainer chooses that itself, got 2"),
    ],
)  # fmt: skip
def test_a_wrong_one_is_told(given: dict[str, Any], said: str) -> None:
    def made() -> Any:
        models = ModelOptions(**given)
        return models.placement, models.runs(Options(), WVS7)

    with pytest.raises(ConfigError) as raised:
        made()
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


def test_a_base_to_be_trained_here_is_none_of_a_hosted_trainer(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="base-model: the hosted trainer trains --trainer-model, got 'x'; leave it"):
        few(Options(str(tmp_path), base_model="x"), models=ModelOptions(trainer="openai"))


def test_a_stage_and_a_file_that_disagree_are_told_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    assert ModelOptions(deepspeed=str(file)).placement.zero_stage == 2
    with pytest.raises(ConfigError, match="zero_stage: is 3, but the DeepSpeed settings have 2; give one of them"):
        _ = ModelOptions(deepspeed=str(file), zero_stage=3).placement


@pytest.mark.timeout(600)
def test_a_command_line_trains_as_it_says(ray_cluster: None, tmp_path: Path) -> None:
    """The file is read where the command is given: no worker needs it."""
    file, base = tmp_path / "ds.json", make_base(tmp_path / "base")
    file.write_text(json.dumps({"zero_optimization": {"stage": "auto", "reduce_bucket_size": "auto"}}))
    given = [
        "--root", str(tmp_path / "run"), "--cultures", "german,greek", "--base-model", str(base), "--rank", "2",
        "--validation", "0.2", "--patience", "1", "--zero-stage", "2", "--deepspeed", str(file), "--packing", "no",
        "--micro-tokens", "64", "--gradient-checkpointing", "yes", "--checkpoint-every", "2", "--learning-rate", "0.3",
        "--dtype", "float32", "--passes", "40",
    ]  # fmt: skip
    made = select(parse_recipe(few, given, "test")[1], "train")
    file.unlink()
    run = Run(str(tmp_path / "run"))
    do(run, made)
    folder = run.folder(made[-1])
    summary = json.loads(folder.read_text("run.json") or "")
    assert (summary["zero"]["stage"], summary["zero"]["offload"]) == (2, "none")
    assert summary["stopped"], "a rate of 0.3 makes it worse"
    points = (folder / "log").read(TrainPoint)
    assert any(point.validation is not None for point in points)
    assert json.loads(folder.read_text("adapters/greek/adapter_config.json") or "")["r"] == 2
