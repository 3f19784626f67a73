"""DeepSpeed's engine around a learner, with an optimiser that knows the adapters apart."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from cp_ray.errors import ConfigError
from cp_ray.llm.hub import first_line
from cp_ray.training.config import Placement, TrainConfig
from cp_ray.training.deepspeed_file import as_asked
from cp_ray.training.memory import device_memory, needed
from cp_ray.training.model import Learner
from cp_ray.training.optimizer import AdapterAdamW
from cp_ray.training.zero import Zero, choose, settings

__all__ = ["join", "plan_zero", "start_engine"]


def join(device: torch.device) -> None:
    """Bring DeepSpeed into the process group."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    import deepspeed

    if device.type == "cpu":
        # Without this, DeepSpeed compiles a shared-memory operator for the CPU first; plain gloo does the same.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("nccl" if device.type == "cuda" else "gloo", auto_mpi_discovery=False, verbose=False)


def plan_zero(
    shape: Learner, config: TrainConfig, placement: Placement, device: torch.device
) -> tuple[Zero, dict[str, Any]]:
    """The stage that is chosen, and DeepSpeed's settings.

    Args:
        shape: the learner, which needs no weights yet.
        config: the run's.
        placement: on how many workers, and what of it is fixed.
        device: of each worker.

    Raises:
        ConfigError: the user's DeepSpeed settings cannot be used.
        PlacementError: there is not enough memory.
    """
    placement = as_asked(placement)
    bf16 = config.method == "full" and shape.base.dtype == torch.bfloat16
    memory = device_memory(device, placement.workers)
    zero = choose(needed(shape, placement, config.method), placement.workers, memory, placement, bf16=bf16)
    largest = max(p.numel() for k in range(len(config.adapters)) for _, p in shape.parameters_of(k))
    return zero, settings(zero, placement, bf16=bf16, largest_adapter=largest)


def start_engine(
    learner: Learner,
    config: TrainConfig,
    placement: Placement,
    zero: Zero,
    settings_: Mapping[str, Any],
    device: torch.device,
) -> tuple[Any, AdapterAdamW]:
    """DeepSpeed's engine, and the optimiser with a group for each adapter.

    Raises:
        ConfigError: it refuses the user's settings.
    """
    import deepspeed
    from deepspeed.runtime.config import DeepSpeedConfigError
    from deepspeed.runtime.zero.utils import ZeRORuntimeException

    groups = [[p for _, p in learner.parameters_of(k)] for k in range(len(config.adapters))]
    optimizer = AdapterAdamW(
        [
            {
                "params": own,
                "lr": adapter.learning_rate,
                "weight_decay": adapter.weight_decay,
                "max_grad_norm": adapter.max_grad_norm,
            }
            for own, adapter in zip(groups, config.adapters, strict=True)
        ],
        shared_on=device if zero.stage > 0 else None,
    )
    try:
        engine, *_ = deepspeed.initialize(model=learner, optimizer=optimizer, config=dict(settings_))
    except (AssertionError, DeepSpeedConfigError, NotImplementedError, ValueError, ZeRORuntimeException) as error:
        if not placement.deepspeed:
            raise
        raise ConfigError(f"deepspeed: {first_line(error)}; correct your own settings") from error
    # Without ZeRO it would copy all gradients together first, for a worker by itself too: `Gradients` asks it later.
    engine.enable_backward_allreduce = zero.stage > 0
    return engine, optimizer
