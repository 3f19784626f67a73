"""DeepSpeed's engine around a learner, with an optimiser that knows the adapters apart."""

import os
from typing import Any

import torch

from cp_ray.training.config import Placement, TrainConfig
from cp_ray.training.memory import device_memory, needed
from cp_ray.training.model import Learner
from cp_ray.training.optimizer import AdapterAdamW
from cp_ray.training.zero import Zero, as_asked, choose, settings

__all__ = ["start_engine"]


def start_engine(
    learner: Learner, config: TrainConfig, placement: Placement, device: torch.device
) -> tuple[Zero, Any, AdapterAdamW]:
    """The stage that was chosen, DeepSpeed's engine, and the optimiser with a group for each adapter.

    Raises:
        ConfigError: the user's DeepSpeed settings cannot be used.
        PlacementError: there is not enough memory.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    import deepspeed

    if device.type == "cpu":
        # Without this, DeepSpeed compiles a shared-memory operator for the CPU first; plain gloo does the same.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    placement = as_asked(placement)
    bf16 = config.method == "full" and learner.base.dtype == torch.bfloat16
    memory = device_memory(device, placement.workers)
    zero = choose(needed(learner, placement, config.method), placement.workers, memory, placement, bf16=bf16)
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
    deepspeed.init_distributed("nccl" if device.type == "cuda" else "gloo", auto_mpi_discovery=False, verbose=False)
    engine, *_ = deepspeed.initialize(
        model=learner,
        optimizer=optimizer,
        config=settings(
            zero,
            placement,
            bf16=bf16,
            largest_adapter=max(p.numel() for own in groups for p in own),
        ),
    )
    return zero, engine, optimizer
