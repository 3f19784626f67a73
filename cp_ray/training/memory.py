"""How much memory a run needs, has, and took; and what to say when there was too little."""

import os
import resource

import torch
from torch import nn

from cp_ray.causal import layers, text_config
from cp_ray.errors import PlacementError
from cp_ray.training.config import Placement
from cp_ray.training.model import Learner
from cp_ray.training.zero import Need

__all__ = ["device_memory", "needed", "peak_memory", "short_of_memory", "too_much"]

PER_LAYER = {"lora": 52, "dora": 80, "qlora": 52, "full": 58}
"""Bytes that a layer keeps for the backward pass in bfloat16, for a token and a hidden unit, by method."""

PER_LOGIT = 12
"""Bytes for a label and a word of the vocabulary: 4 are kept, 2 are the logits, and 6 what the backward pass makes."""

_FOUR_BIT = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes a weight in NF4: its scales take one for 64 weights, and theirs 4 for 256 of them (arXiv:2305.14314)."""

_LABELS = 0.5
"""Share of the tokens that are labels, at most: prompts are longer than answers."""


def needed(learner: Learner, placement: Placement, method: str) -> Need:
    """Bytes of a run on a worker that keeps everything; what is kept, by `python -m benchmarks.saved_states`.

    Args:
        learner: with weights or without.
        placement: how much is computed at once.
        method: as in `TrainConfig`.
    """
    frozen = sum(p.nbytes for p in learner.parameters() if not p.requires_grad)
    if method == "qlora":
        maps = (part for part in layers(learner.base).modules() if isinstance(part, nn.Linear))
        frozen -= sum(part.weight.nbytes - int(part.weight.numel() * _FOUR_BIT) for part in maps)
    trained = [p for p in learner.parameters() if p.requires_grad]
    masters = sum(4 * p.numel() for p in trained if p.dtype != torch.float32)
    config, itemsize = text_config(learner.base), learner.base.dtype.itemsize
    adapted, layer = config.num_hidden_layers - learner.depth, PER_LAYER[method] * itemsize // 2
    states = adapted * itemsize + layer if placement.gradient_checkpointing else adapted * layer
    logits = int(_LABELS * config.vocab_size) * PER_LOGIT
    kept = placement.at_once * (config.hidden_size * states + logits)
    return Need(
        frozen=frozen,
        trained=sum(p.nbytes for p in trained),
        gradients=sum(p.nbytes for p in trained),
        optimizer=sum(8 * p.numel() for p in trained) + masters,
        activations=kept,
    )


def device_memory(device: torch.device, workers: int) -> int:
    """Bytes of the worker's GPU, or its share of this machine's memory; Ray Train tells how many are on it."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    from ray._common.utils import get_system_memory  # heeds a container's limit

    return int(get_system_memory()) // int(os.environ.get("LOCAL_WORLD_SIZE", workers))


def peak_memory(device: torch.device) -> int:
    """Bytes that this worker has had in use at most."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def short_of_memory(error: BaseException, placement: Placement) -> PlacementError | None:
    """What to do, if this is an error of an allocation that failed; else None."""
    cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    if not (cpu or isinstance(error, (torch.OutOfMemoryError, MemoryError))):
        return None
    return too_much(placement)


def too_much(placement: Placement) -> PlacementError:
    """What to lower."""
    return PlacementError(
        f"micro_tokens: {placement.at_once} tokens at once were too many for the memory; give fewer, "
        "gradient_checkpointing, or more workers; the run goes on from its last checkpoint"
    )
