"""ZeRO's stages on two processes, and going on with other numbers of them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cp_ray.errors import ConfigError, PlacementError
from cp_ray.training.config import Placement
from cp_ray.training.deepspeed_file import as_asked, read_settings
from cp_ray.training.zero import Need, Zero, choose, settings
from tests.tiny import make_base
from tests.training.ranks import make_config, on_ranks

GIB = 2**30
STAGES = ((0, "none"), (1, "none"), (2, "none"), (2, "optimizer"), (3, "none"), (3, "all"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_every_stage_gives_the_losses_of_one_worker(base: Path) -> None:
    """Of adapters, and of all weights."""
    lora = make_config(base, "german", "greek", validation=0.2, validate_every=3)
    dora = make_config(base, "german", "greek", method="dora", layers=1)
    full = make_config(base, "german", method="full", learning_rate=1e-3)
    every = (lora, dora, full)
    alone = on_ranks(1, [(run, Placement(1, zero_stage=0, offload="none"), None, 0) for run in every])
    runs = [(run, Placement(2, zero_stage=s, offload=o), None, 0) for s, o in STAGES for run in every]
    for k, points in enumerate(on_ranks(2, runs)):
        one = alone[k % 3]
        assert [p.loss for p in points] == pytest.approx([p.loss for p in one], abs=1e-4), runs[k][1]
        assert [(p.model, p.step, p.tokens) for p in points] == [(p.model, p.step, p.tokens) for p in one]
        validated = [p.validation or 0 for p in points]
        assert validated == pytest.approx([p.validation or 0 for p in one], abs=1e-4), runs[k][1]
    assert alone[0][-1].loss < 0.8 * alone[0][0].loss
    assert alone[2][-1].loss < 0.8 * alone[2][0].loss


@pytest.mark.timeout(600)
def test_a_base_in_bfloat16_is_shared_under_adapters_in_float32(base: Path) -> None:
    run = make_config(base, "german", "greek", dtype="bfloat16", layers=1)
    plain, shared = on_ranks(2, [(run, Placement(2, zero_stage=s, offload="none"), None, 0) for s in (0, 3)])
    assert [p.loss for p in shared] == pytest.approx([p.loss for p in plain], rel=0.01)


@pytest.mark.timeout(600)
def test_an_adapter_that_ends_before_the_others_ends_no_offloaded_run(base: Path) -> None:
    run = make_config(base, "german", "greek")
    run = replace(run, adapters=(replace(run.adapters[0], passes=2), run.adapters[1]))
    runs = [(run, Placement(2, zero_stage=s, offload=o), None, 0) for s, o in ((0, "none"), *STAGES[3:])]
    alone, *offloaded = on_ranks(2, runs)
    for points in offloaded:
        assert [(p.model, p.step) for p in points] == [(p.model, p.step) for p in alone]
        assert [p.loss for p in points] == pytest.approx([p.loss for p in alone], abs=1e-4)


@pytest.mark.timeout(600)
def test_whole_models_that_share_their_weights_go_on_where_they_were(base: Path, tmp_path: Path) -> None:
    run = make_config(base, "german", method="full", learning_rate=1e-3)
    shared = Placement(2, zero_stage=3, offload="none", checkpoint_every=3)
    left, again = str(tmp_path), replace(shared, checkpoint_every=100)
    whole, _ = on_ranks(2, [(run, shared, None, 0), (run, shared, left, 3)])
    (after,) = on_ranks(2, [(run, again, left, 0)])
    assert [p.loss for p in after] == pytest.approx([p.loss for p in whole], abs=1e-4)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_it_goes_on_with_other_workers_and_stages(base: Path, tmp_path: Path) -> None:
    run = make_config(base, "german", "greek")
    plain = Placement(2, zero_stage=2, offload="none", checkpoint_every=3)
    whole, _ = on_ranks(2, [(run, plain, None, 0), (run, plain, str(tmp_path / "left"), 6)])
    for workers, stage in ((1, 0), (2, 3), (4, 0)):
        shutil.copytree(tmp_path / "left", tmp_path / f"left{workers}")
        placement = Placement(workers, zero_stage=stage, offload="none", checkpoint_every=3)
        (rest,) = on_ranks(workers, [(run, placement, str(tmp_path / f"left{workers}"), 0)])
        assert [p.step for p in rest] == [p.step for p in whole]
        assert [p.loss for p in rest] == pytest.approx([p.loss for p in whole], abs=1e-5), workers


@pytest.mark.timeout(600)
def test_all_weights_in_bfloat16_go_on_as_if_never_left(base: Path, tmp_path: Path) -> None:
    run = make_config(base, "german", method="full", learning_rate=1e-3, dtype="bfloat16")
    placement, folder = Placement(1, checkpoint_every=3), str(tmp_path / "left")
    whole, _, rest = on_ranks(1, [(run, placement, None, 0), (run, placement, folder, 6), (run, placement, folder, 0)])
    assert [(p.step, p.loss) for p in rest] == [(p.step, p.loss) for p in whole]


NEED = Need(frozen=0, trained=2 * GIB, gradients=2 * GIB, optimizer=12 * GIB, activations=1 * GIB)
"""All weights of a model of a billion, in mixed precision."""


@pytest.mark.parametrize(
    ("workers", "memory", "chosen"),
    [
        (1, 80, (0, "none")),
        (4, 20, (0, "none")),
        (4, 10, (1, "none")),
        (4, 8, (2, "none")),
        (8, 4, (3, "none")),
        (1, 8, (2, "optimizer")),
        (2, 5, (2, "optimizer")),
        (2, 4, (3, "optimizer")),
    ],
)
def test_the_least_stage_that_fits_is_chosen(workers: int, memory: int, chosen: tuple[int, str]) -> None:
    zero = choose(NEED, workers, memory * GIB, Placement(workers, use_gpu=True))
    assert (zero.stage, zero.offload) == chosen
    assert f"of {memory}.0 GiB on each of {workers} workers" in zero.why


def test_what_is_asked_for_is_kept_to() -> None:
    assert choose(NEED, 4, 80 * GIB, Placement(4, zero_stage=3)).stage == 3
    assert choose(NEED, 1, GIB, Placement(1, zero_stage=1, offload="none")) == Zero(1, "none", "as asked for")
    with pytest.raises(PlacementError, match=r"memory: a worker needs 3.0 GiB and has 2.0 GiB; give more workers"):
        choose(NEED, 1, 2 * GIB, Placement(1, use_gpu=True))


def test_a_cpu_offloads_nothing_to_itself() -> None:
    with pytest.raises(PlacementError, match=r"memory: a worker needs 17.0 GiB and has 8.0 GiB"):
        choose(NEED, 1, 8 * GIB, Placement(1))


def test_all_weights_in_bfloat16_are_not_trained_without_zero() -> None:
    assert choose(NEED, 1, 80 * GIB, Placement(1, use_gpu=True), bf16=True).stage == 1
    assert choose(NEED, 8, 4 * GIB, Placement(8, use_gpu=True), bf16=True).stage == 3
    with pytest.raises(ConfigError, match=r"zero_stage: all weights of a bfloat16 base need 1 at least, got 0"):
        choose(NEED, 1, 80 * GIB, Placement(1, zero_stage=0, offload="none"), bf16=True)


def own(tmp_path: Path, text: str) -> Placement:
    (tmp_path / "ds.json").write_text(text)
    return Placement(deepspeed=read_settings(str(tmp_path / "ds.json")))


def test_a_users_settings_go_over_ours(tmp_path: Path) -> None:
    text = json.dumps(
        {
            "zero_optimization": {"stage": 3, "overlap_comm": True},
            "train_batch_size": "auto",
            "wall_clock_breakdown": True,
        }
    )
    found = settings(Zero(2, "none", ""), own(tmp_path, text), bf16=False, largest_adapter=100)
    assert found["zero_optimization"] == {"stage": 3, "overlap_comm": True}
    assert found["wall_clock_breakdown"] is True
    assert "train_batch_size" not in found
    assert found["train_micro_batch_size_per_gpu"] == 1


@pytest.mark.parametrize(
    ("optimization", "stage", "offload"),
    [
        ({"stage": 2}, 2, None),
        ({"stage": "auto"}, None, None),
        ({"overlap_comm": True}, None, None),
        ({"stage": 2, "offload_optimizer": {"device": "cpu"}}, 2, "optimizer"),
        ({"stage": 2, "offload_optimizer": {"device": "none"}}, 2, "none"),
        ({"stage": 2, "offload_optimizer": None}, 2, "none"),
        ({"offload_optimizer": {"device": "cpu"}}, None, "optimizer"),
        ({"stage": "auto", "offload_param": {"device": "nvme"}}, None, "all"),
        ({"stage": "3"}, 3, None),
        ({"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}, 3, "all"),
    ],
)
def test_a_users_stage_is_the_runs(tmp_path: Path, optimization: Any, stage: int | None, offload: str | None) -> None:
    placement = as_asked(own(tmp_path, json.dumps({"zero_optimization": optimization})))
    assert (placement.zero_stage, placement.offload) == (stage, offload)


def test_the_optimiser_is_never_given_its_part_in_pieces(tmp_path: Path) -> None:
    """It would clip each piece by itself; almost every file for ZeRO-3 asks for it."""
    text = '{"zero_optimization": {"stage": 3, "sub_group_size": 1e9}}'
    found = settings(Zero(3, "none", ""), own(tmp_path, text), bf16=False, largest_adapter=1)
    assert found["zero_optimization"]["sub_group_size"] == 2**60


@pytest.mark.parametrize(
    ("optimization", "asked", "said"),
    [
        (
            {"stage": 2, "offload_optimizer": {"device": "cpu"}},
            "none",
            "offload: is none, but .* have optimizer",
        ),
        (
            {"stage": 3, "offload_optimizer": {"device": "cpu"}},
            "all",
            "offload: is all, but .* have optimizer",
        ),
        ({"stage": 2, "offload_param": {"device": "cpu"}}, None, "deepspeed: offload_param needs stage 3, got 2; give"),
    ],
)
def test_two_offloads_are_told(tmp_path: Path, optimization: Any, asked: str | None, said: str) -> None:
    given = replace(own(tmp_path, json.dumps({"zero_optimization": optimization})), offload=asked)
    with pytest.raises(ConfigError, match=said):
        as_asked(given)


def test_two_stages_are_told(tmp_path: Path) -> None:
    given = replace(own(tmp_path, '{"zero_optimization": {"stage": 3}}'), zero_stage=2)
    with pytest.raises(ConfigError, match="zero_stage: is 2, but the DeepSpeed settings have 3; give one of them"):
        as_asked(given)


@pytest.mark.timeout(600)
def test_a_users_stage_gives_the_losses_of_one_worker(base: Path, tmp_path: Path) -> None:
    run = make_config(base, "german", "greek")
    ds = own(tmp_path, '{"zero_optimization": {"stage": 2}}').deepspeed
    (alone,) = on_ranks(1, [(run, Placement(1, zero_stage=0, offload="none"), None, 0)])
    (shared,) = on_ranks(2, [(run, Placement(2, deepspeed=ds), None, 0)])
    assert [p.loss for p in shared] == pytest.approx([p.loss for p in alone], abs=1e-4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "deepspeed: cannot read .*ds.json "),
        ("[]", "deepspeed: .*ds.json must hold an object, got list"),
        ('{"optimizer": {"type": "Adam"}}', "deepspeed: optimizer is given by the run's own settings; take it out"),
        ('{"gradient_clipping": 1.0}', "deepspeed: gradient_clipping is given"),
        ('{"bf16": {"enabled": true}}', "deepspeed: bf16 is given"),
        ('{"torch_autocast": {"enabled": true}}', "deepspeed: torch_autocast is given"),
        ('{"zero_optimization": 2}', "deepspeed: zero_optimization must be an object, got 2"),
        ('{"zero_optimization": {"stge": 2}}', "zero_optimization.stge: Extra inputs are not permitted, got 2"),
        ('{"zero_optimization": {"offload_param": {"device": "disk"}}}', "zero_optimization.offload_param.device: "),
        (
            '{"zero_optimisation": {"stage": 2}}',
            "no setting 'zero_optimisation'; did you mean 'zero_optimization'",
        ),
        ('{"stage3": 1, "wall_clock_breakdown": true}', "deepspeed: it has no setting 'stage3'"),
        ('{"communication_data_type": "fp99"}', "deepspeed: Invalid communication_data_type.*; correct the file"),
        ('{"amp": {"enabled": true}}', "deepspeed: .*; correct the file"),
    ],
)
def test_a_users_settings_that_cannot_be_are_told(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        own(tmp_path, text)
    assert "\n" not in str(raised.value)
    with pytest.raises(ConfigError, match="deepspeed: scheduler is given"):  # from Python
        settings(Zero(0, "none", ""), Placement(deepspeed={"optimizer": {}, "scheduler": 1}), bf16=False,
                 largest_adapter=1)  # fmt: skip


def test_what_a_users_file_leaves_to_the_trainer_is_the_trainers(tmp_path: Path) -> None:
    text = json.dumps({
        "fp16": {"enabled": "auto", "loss_scale": 0, "initial_scale_power": 16}, "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": "auto", "reduce_bucket_size": "auto", "overlap_comm": True},
        "gradient_clipping": "auto", "train_batch_size": "auto",
    })  # fmt: skip
    found = settings(Zero(3, "none", ""), own(tmp_path, text), bf16=False, largest_adapter=7)
    plain = settings(Zero(3, "none", ""), Placement(), bf16=False, largest_adapter=7)
    assert found["zero_optimization"] == {**plain["zero_optimization"], "overlap_comm": True}
    assert {**found, "zero_optimization": 0} == {**plain, "zero_optimization": 0}
