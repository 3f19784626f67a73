"""Real Ray Train and DeepSpeed, on a model of a few thousand weights."""

import json
from pathlib import Path
from typing import Any

import pytest

from cp_ray.cultures import CULTURES
from cp_ray.errors import BaseModelError, ConfigError, PlacementError
from cp_ray.pipeline import open_folder
from cp_ray.records import Example, Message, TrainPoint
from cp_ray.rollout import cause_of
from cp_ray.survey.read import WVS7
from cp_ray.training.config import Placement, TrainConfig
from cp_ray.training.fit import fit
from tests.tiny import make_base

EXAMPLES = [
    Example(
        f"e{q}/{k}", "german", "answer", f"Q{q}",
        (Message("system", "S."), Message("user", f"Is it {q}?"), Message("assistant", "Yes" if k % 4 else "No")),
        (), "train",
    )
    for q in range(5)
    for k in range(8)
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def train(base: Path, out: Path, workers: int, **settings: Any) -> list[TrainPoint]:
    settings = {"passes": 4, "batch_size": 2, "learning_rate": 0.01, "rank": 4, **settings}
    folder = open_folder(str(out))
    fit(TrainConfig(str(base), CULTURES["german"], WVS7, **settings), Placement(workers), EXAMPLES, folder)
    return (folder / "log").read(TrainPoint)


def test_an_adapter_is_learnt_and_anybody_can_load_it(ray_cluster: None, base: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    points = train(base, tmp_path / "a", workers=2, warmup=0.25)
    assert [p.step for p in points] == list(range(1, 13)), "3 batches of 5 prompts in each of 4 passes"
    assert points[-1].loss < 0.8 * points[0].loss
    assert points[0].learning_rate < points[1].learning_rate
    assert points[-1].learning_rate < points[3].learning_rate
    adapter = tmp_path / "a" / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert "arXiv:2402.10946" in (adapter / "README.md").read_text()
    plain = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        before = plain(ids).logits
        after = PeftModel.from_pretrained(plain, str(adapter))(ids).logits
    assert (before - after).abs().max() > 1e-3


def test_one_worker_or_two_and_again_the_same(ray_cluster: None, base: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    two = train(base, tmp_path / "two", workers=2, layers=1)
    again = train(base, tmp_path / "again", workers=2, layers=1)
    one = train(base, tmp_path / "one", workers=1, layers=1)
    assert [p.loss for p in two] == [p.loss for p in again]
    weights = [tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("two", "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert [p.loss for p in one] == pytest.approx([p.loss for p in two], abs=1e-4)
    with safe_open(weights[0], "pt") as file:
        assert {name.split(".layers.")[1][0] for name in file.keys()} == {"1"}, "only the upper layer is adapted"  # noqa: SIM118


@pytest.mark.parametrize(
    ("settings", "workers", "error", "said"),
    [
        ({"layers": 9}, 1, ConfigError, "layers: the base model has 2, got 9"),
        ({}, 64, PlacementError, "asks for 64 CPUs and the cluster has"),
    ],
)
def test_what_goes_wrong_in_a_worker_comes_out_in_one_line(
    ray_cluster: None, base: Path, tmp_path: Path, settings: dict[str, Any], workers: int, error: type, said: str
) -> None:
    with pytest.raises(Exception, match="") as raised:
        train(base, tmp_path / "x", workers, **settings)
    cause = cause_of(raised.value)
    assert type(cause) is error
    assert said in str(cause)
    assert not (tmp_path / "x" / "adapter").exists()


def test_a_base_that_is_not_there_is_told(ray_cluster: None, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="") as raised:
        train(tmp_path / "nothing", tmp_path / "x", workers=1)
    assert type(cause_of(raised.value)) is BaseModelError
