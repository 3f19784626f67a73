"""Real Ray Train and DeepSpeed, on a model of a few thousand weights."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cp_ray.errors import ConfigError, PlacementError, RunFolderError
from cp_ray.folder import open_folder
from cp_ray.records import TrainPoint
from cp_ray.rollout import cause_of
from cp_ray.training.config import Placement, TrainConfig
from cp_ray.training.fit import fit
from cp_ray.training.said import remarks
from tests.chaos.test_kill import ROOT, kill_tree
from tests.tiny import make_base
from tests.training.fit_driver import PLACEMENT, config
from tests.training.ranks import EXAMPLES, make_config

UNFIT = {"zero_optimization": {"stage": 2, "reduce_scatter": True}, "gradient_predivide_factor": 2.0}
"""Settings that DeepSpeed reads and then cannot do."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def train(config: TrainConfig, out: Path, placement: Placement, progress: Any = None) -> list[TrainPoint]:
    folder = open_folder(str(out))
    fit(config, placement, EXAMPLES, folder, progress=progress)
    return (folder / "log").read(TrainPoint)


def weights(out: Path, name: str) -> bytes:
    return (out / "adapters" / name / "adapter_model.safetensors").read_bytes()


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happens to."""

    out: Path
    points: list[TrainPoint]

    @property
    def adapters(self) -> dict[str, bytes]:
        return {name: weights(self.out, name) for name in ("german", "greek")}


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: None, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Its rows are tokenised in several tasks; the few of the others by each worker for itself."""
    out = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cp_ray.training.fit._BLOCK", 4)
        return Undisturbed(out, train(config(base), out, PLACEMENT))


@dataclass
class Killer:
    """Ends the worker that tells of some step, the first time it comes there."""

    at: int
    marker: Path

    def step(self, done: int, total: int, **latest: float) -> None:
        if done == self.at and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.timeout(1200)
def test_adapters_are_learnt_and_anybody_can_load_them(undisturbed: Undisturbed, base: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    out = undisturbed.out
    own = [p for p in undisturbed.points if p.model == "german"]
    assert [p.step for p in own] == list(range(1, 9)), "2 batches of 4 prompts in each of 4 passes"
    assert own[-1].loss < 0.8 * own[0].loss
    assert own[0].learning_rate < own[1].learning_rate
    assert own[-1].learning_rate < own[3].learning_rate
    (said,) = remarks(open_folder(str(out)))
    assert said.startswith("ZeRO-0 (")
    assert "on each of 2 workers), " in said
    assert not (out / "checkpoints").exists()
    assert any(path.name.startswith("events.out.tfevents") for path in (out / "tensorboard").iterdir())
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        logits = [AutoModelForCausalLM.from_pretrained(base)(ids).logits]
        for name in ("german", "greek"):
            folder = out / "adapters" / name
            assert "arXiv:2402.10946" in (folder / "README.md").read_text()
            assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
            plain: Any = AutoModelForCausalLM.from_pretrained(base)
            logits.append(PeftModel.from_pretrained(plain, str(folder))(ids).logits)
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    assert (logits[1] - logits[2]).abs().max() > 1e-3


@pytest.mark.timeout(1200)
def test_what_was_cut_off_at_its_very_end_is_not_trained_again(undisturbed: Undisturbed, base: Path) -> None:
    (undisturbed.out / "checkpoints").mkdir()
    before = {path: path.stat().st_mtime_ns for path in undisturbed.out.rglob("*") if path.is_file()}
    assert train(config(base), undisturbed.out, PLACEMENT) == undisturbed.points
    assert {path: path.stat().st_mtime_ns for path in undisturbed.out.rglob("*") if path.is_file()} == before
    assert not (undisturbed.out / "checkpoints").exists()


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_workers_that_share_the_base_learn_what_those_with_all_of_it_learn(
    undisturbed: Undisturbed, base: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load

    shared = train(config(base), tmp_path, replace(PLACEMENT, zero_stage=3))
    (said,) = remarks(open_folder(str(tmp_path)))
    assert said.startswith("ZeRO-3 (")
    assert [p.loss for p in shared] == pytest.approx([p.loss for p in undisturbed.points], abs=1e-4)
    for name, whole in undisturbed.adapters.items():
        own = load(weights(tmp_path, name))
        for key, tensor in load(whole).items():
            assert (tensor - own[key]).abs().max() < 1e-4, (name, key)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_worker_that_dies_costs_no_more_than_what_follows_its_checkpoint(
    undisturbed: Undisturbed, base: Path, tmp_path: Path
) -> None:
    killed = train(config(base), tmp_path / "killed", PLACEMENT, Killer(8, tmp_path / "marker"))
    assert (tmp_path / "marker").exists()
    assert [p.loss for p in killed] == [p.loss for p in undisturbed.points]
    assert {name: weights(tmp_path / "killed", name) for name in undisturbed.adapters} == undisturbed.adapters


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_driver_that_dies_goes_on_from_its_checkpoint(undisturbed: Undisturbed, base: Path, tmp_path: Path) -> None:
    given = [sys.executable, "-m", "tests.training.fit_driver", str(base), str(tmp_path / "out"), str(tmp_path / "m")]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(given, cwd=ROOT, start_new_session=True, stderr=said)
    while not (tmp_path / "m").exists():
        assert process.poll() is None, (tmp_path / "said").read_text()[-3000:]
        time.sleep(0.1)
    kill_tree(process)
    assert not (tmp_path / "out" / "adapters").exists()
    subprocess.run(given, cwd=ROOT, check=True, capture_output=True)
    steps = [int(step) for step in (tmp_path / "m.steps").read_text().split()]
    assert steps == [*range(1, 6), *range(5, 9)], "from the checkpoint of step 4"
    log = (open_folder(str(tmp_path / "out")) / "log").read(TrainPoint)
    assert [p.loss for p in log] == [p.loss for p in undisturbed.points]
    assert {name: weights(tmp_path / "out", name) for name in undisturbed.adapters} == undisturbed.adapters


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("settings", "placement", "error", "said"),
    [
        ({}, Placement(1, deepspeed=UNFIT), ConfigError, "deepspeed: "),
        ({}, Placement(64), PlacementError, "asks for 64 CPUs and the cluster has"),
    ],
)
def test_what_goes_wrong_in_a_worker_comes_out_in_one_line(
    ray_cluster: None,
    base: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    placement: Placement,
    error: type,
    said: str,
) -> None:
    with pytest.raises(Exception) as raised:
        train(make_config(base, "german", **settings), tmp_path / "x", placement)
    cause = cause_of(raised.value)
    assert type(cause) is error, repr(raised.value)
    assert said in str(cause)
    assert not (tmp_path / "x" / "adapters").exists()


def test_a_full_disk_and_too_little_memory_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real errors: a device that is always full, an allocation that no machine can make."""
    import torch

    from cp_ray.training.checkpoint import Checkpoints, State
    from cp_ray.training.memory import short_of_memory

    (tmp_path / "checkpoints" / "00000002").mkdir(parents=True)
    (tmp_path / "checkpoints" / "00000002" / "state.safetensors").symlink_to("/dev/full")
    checkpoints = Checkpoints(open_folder(str(tmp_path / "checkpoints")))
    monkeypatch.setattr("cp_ray.folder.Folder.clear", lambda self: None)
    with pytest.raises(RunFolderError, match=r"a checkpoint of step 2 cannot be written to .*no space left"):
        checkpoints.write(State(step=2))
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60)
    told = short_of_memory(raised.value, Placement(micro_tokens=512))
    assert "micro_tokens: 512 tokens at once were too many" in str(told)
    assert short_of_memory(RuntimeError("else"), Placement()) is None


def test_what_was_written_last_is_kept_though_a_later_step_lies_there_damaged(tmp_path: Path) -> None:
    import torch

    from cp_ray.training.checkpoint import Checkpoints, State

    checkpoints = Checkpoints(open_folder(str(tmp_path)))
    for step in (20, 40, 60):
        checkpoints.write(State(step=step, tensors={("german", "a", "weight"): torch.zeros(1)}))
    for step in (40, 60):
        (tmp_path / f"{step:08d}" / "state.json").write_text("{")
    checkpoints.write(State(step=25, tensors={("german", "a", "weight"): torch.ones(1)}))
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 25
    assert not (tmp_path / "00000060").exists()


def test_curves_that_cannot_be_written_end_no_training(
    tmp_path: Path, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from cp_ray.training.trackers import Trackers

    (tmp_path / "tensorboard").write_text("a file where a folder should be")
    with Trackers(open_folder(str(tmp_path / "tensorboard")), make_config(base, "german"), 0) as trackers:
        trackers.flush()
    assert "the curves cannot be written" in caplog.text


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_machine_that_is_short_of_memory_ends_the_run_with_what_to_lower(tmp_path: Path) -> None:
    """Ray kills the worker, and others with it."""
    given = [sys.executable, "-m", "tests.training.short_of_memory", str(tmp_path)]
    told = subprocess.run(given, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "PlacementError('micro_tokens: 512 tokens at once were too many for the memory" in told


def test_a_worker_that_ray_kills_for_its_memory_is_replaced_once() -> None:
    from ray.exceptions import OutOfMemoryError

    from cp_ray.training.fit import _GiveUp

    judge = _GiveUp(Placement(micro_tokens=512))
    kind: Any = OutOfMemoryError  # untyped
    killed: dict[int, Exception] = {1: kind("1 worker(s) were killed due to the node running low on memory.")}
    judge.after_exception(None, {0: RuntimeError("another reason")})
    judge.after_exception(None, killed)
    judge.after_exception(None, {0: RuntimeError("another reason")})
    with pytest.raises(PlacementError, match=r"micro_tokens: 512 tokens at once were too many for the memory"):
        judge.after_exception(None, killed)


@pytest.mark.parametrize("damage", ["cut off", "gone"])
def test_of_a_damaged_checkpoint_the_one_before_is_taken(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    from cp_ray.training.checkpoint import Checkpoints, State

    checkpoints = Checkpoints(open_folder(str(tmp_path)))
    for step in (2, 4):
        checkpoints.write(State(step=step))
    tensors = tmp_path / "00000004" / "state.safetensors"
    tensors.write_bytes(b"\x00") if damage == "cut off" else tensors.unlink()
    state = checkpoints.latest()
    assert state is not None
    assert state.step == 2
    assert "00000004: the checkpoint is damaged" in caplog.text
