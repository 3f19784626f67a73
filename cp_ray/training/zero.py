"""DeepSpeed: which ZeRO stage and offload a run needs, its settings, and the optimiser's state under each stage.

The arithmetic is ZeRO's (arXiv:1910.02054, section 3): of mixed-precision AdamW a trained weight takes 2 bytes, its
gradient 2 and what the optimiser keeps 12; adapters here are float32 throughout, with 16 bytes a weight in all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cp_ray.errors import ConfigError, PlacementError
from cp_ray.training.config import Placement
from cp_ray.training.deepspeed_file import own_settings

__all__ = ["Need", "Zero", "begin_state", "choose", "read_state", "settings", "write_state"]

_MOMENTS = ("exp_avg", "exp_avg_sq")

_SPARE = 0.85
"""Share of the memory that is planned with; the rest is for what fragments and what is not counted here."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of a run on one worker that keeps everything."""

    frozen: int
    """Weights that are not trained."""
    trained: int
    """Weights that are, as the forward pass uses them."""
    gradients: int
    optimizer: int
    activations: int


@dataclass(frozen=True, slots=True)
class Zero:
    """A stage and an offload, and why."""

    stage: int
    offload: str
    why: str


def choose(need: Need, workers: int, memory: int, placement: Placement, *, bf16: bool = False) -> Zero:
    """The least stage and offload under which a worker's part fits into its memory.

    Args:
        need: of one worker that keeps everything.
        workers: that share.
        memory: bytes of each.
        placement: what it fixes is not chosen.
        bf16: as in `settings`. Without ZeRO DeepSpeed keeps the masters where no checkpoint finds them.

    Raises:
        ConfigError: bf16, and ZeRO-0 is asked for.
        PlacementError: nothing fits.
    """
    if bf16 and placement.zero_stage == 0:
        raise ConfigError("zero_stage: all weights of a bfloat16 base need 1 at least, got 0; or give dtype float32")
    least = 1 if bf16 else 0
    if placement.zero_stage is not None and placement.offload is not None:
        return Zero(placement.zero_stage, placement.offload, "as asked for")
    tried = []
    for stage, offload in (
        (0, "none"),
        (1, "none"),
        (2, "none"),
        (3, "none"),
        (2, "optimizer"),
        (3, "optimizer"),
        (3, "all"),
    ):
        if placement.zero_stage not in (None, stage) or placement.offload not in (None, offload):
            continue
        if stage < least:
            continue
        if stage > least and workers == 1 and offload == "none" and placement.zero_stage is None:
            continue  # nobody to share with
        if offload != "none" and not placement.use_gpu and placement.offload is None:
            continue  # it would stay in the same memory
        bytes_ = _part(need, workers, stage, offload)
        tried.append(bytes_)
        if bytes_ <= _SPARE * memory:
            return Zero(stage, offload, f"{_gb(bytes_)} of {_gb(memory)} on each of {workers} workers")
    raise PlacementError(
        f"memory: a worker needs {_gb(min(tried))} and has {_gb(memory)}; give more workers, fewer micro_tokens "
        f"(now {placement.at_once}), gradient_checkpointing, a smaller base, or qlora"
    )


def _part(need: Need, workers: int, stage: int, offload: str) -> float:
    """Bytes on a worker's device."""
    split = [1 / workers if stage >= at else 1 for at in (1, 2, 3)]
    optimizer = 0 if offload != "none" else need.optimizer * split[0]
    weights = 0 if offload == "all" else (need.frozen + need.trained) * split[2]
    return optimizer + need.gradients * split[1] + weights + need.activations


def settings(zero: Zero, placement: Placement, *, bf16: bool, largest_adapter: int) -> dict[str, Any]:
    """DeepSpeed's settings. The optimiser is torch's own AdamW: DeepSpeed's would be compiled first.

    Args:
        zero: stage and offload.
        placement: with the user's own settings, which go over ours.
        bf16: all weights are trained, in bfloat16 with float32 masters; adapters are float32 by themselves.
        largest_adapter: elements of the largest adapter matrix, which is not worth being shared.

    Raises:
        ConfigError: the user's settings cannot be used, or say what only the run's configuration may.
    """
    optimization: dict[str, Any] = {"stage": zero.stage}
    if zero.offload != "none":
        optimization["offload_optimizer"] = {"device": "cpu", "pin_memory": placement.use_gpu}
    if zero.offload == "all":
        optimization["offload_param"] = {"device": "cpu", "pin_memory": placement.use_gpu}
    if zero.stage == 3:
        optimization["stage3_param_persistence_threshold"] = largest_adapter
        # All at once: the optimiser clips by the norm of what one step is given.
        optimization["sub_group_size"] = 2**60
    ours = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,  # each adapter by itself: AdapterAdamW
        "bf16": {"enabled": bf16},
        "zero_optimization": optimization,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
    return _over(ours, own_settings(placement.deepspeed)) if placement.deepspeed else ours


def _over(ours: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(ours)
    for key, value in own.items():
        there = merged.get(key)
        merged[key] = _over(there, value) if isinstance(there, dict) and isinstance(value, dict) else value
    return merged


def read_state(engine: Any, parameter: nn.Parameter) -> dict[str, Tensor]:
    """A parameter's weight and moments, whole and on the CPU; every worker must ask for the same ones in turn."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if engine.zero_optimization_stage() == 0:
        state = engine.optimizer.state[parameter]
        found = {"weight": parameter, **{key: state[key] for key in _MOMENTS}}
    else:
        found = {"weight": safe_get_full_fp32_param(parameter)}
        found |= {key: safe_get_full_optimizer_state(parameter, key) for key in _MOMENTS}
    return {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in found.items()}


def begin_state(engine: Any, groups: Sequence[Sequence[nn.Parameter]], updates: Sequence[int]) -> None:
    """Make the moments, zeros yet, which the optimiser itself would make at its first step.

    Args:
        engine: DeepSpeed's.
        groups: the parameters of each group of the optimiser.
        updates: that each group has had.
    """
    zero = engine.optimizer
    stage = engine.zero_optimization_stage()
    if stage == 0:
        flat = [(parameter, k) for k, group in enumerate(groups) for parameter in group]
        state = zero.state
    elif stage == 3:
        flat = [(part, zero.sub_group_to_group_id[k]) for k, part in enumerate(zero.fp32_partitioned_groups_flat)]
        state = zero.optimizer.state
    else:
        flat = [(part, k) for k, part in enumerate(zero.single_partition_of_fp32_groups)]
        state = zero.optimizer.state
    for part, group in flat:
        step = torch.tensor(float(updates[group]), device=part.device)
        state[part] = {"step": step, **{key: torch.zeros_like(part.detach()) for key in _MOMENTS}}
    if stage in (1, 2):
        # DeepSpeed looks for them after the first group's first step, when the others have none yet.
        zero._lazy_init_hp_params_optimizer_state()


def write_state(engine: Any, parameter: nn.Parameter, state: Mapping[str, Tensor]) -> None:
    """Put back what `read_state` gave, whatever the number of workers was then; after `begin_state`."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    given = {key: tensor.to(engine.device) for key, tensor in state.items()}
    if engine.zero_optimization_stage() == 0:
        parameter.data.copy_(given["weight"])
        for key in _MOMENTS:
            engine.optimizer.state[parameter][key].copy_(given[key])
        return
    safe_set_full_fp32_param(parameter, given["weight"])
    for key in _MOMENTS:
        safe_set_full_optimizer_state(parameter, given[key], key)


def _gb(bytes_: float) -> str:
    return f"{bytes_ / 2**30:.1f} GiB"
