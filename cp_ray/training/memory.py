"""How much memory a run needs, has, and took; and what to say when there was too little."""

import os
import resource

import torch

from cp_ray.causal import text_config
from cp_ray.errors import PlacementError
from cp_ray.training.config import Placement
from cp_ray.training.model import Learner
from cp_ray.training.zero import Need

__all__ = ["device_memory", "needed", "peak_memory", "short_of_memory"]

_PER_LAYER = 34
"""Hidden states of a layer that the backward pass needs, in multiples of the layer's output in 2 bytes: Korthikanti
et al., Reducing Activation Recomputation in Large Transformer Models (arXiv:2205.05198), without attention scores."""


def needed(learner: Learner, placement: Placement) -> Need:
    """Bytes of a run on a worker that keeps everything."""
    frozen = sum(p.nbytes for p in learner.parameters() if not p.requires_grad)
    trained = [p for p in learner.parameters() if p.requires_grad]
    masters = sum(4 * p.numel() for p in trained if p.dtype != torch.float32)
    config = text_config(learner.base)
    layers = config.num_hidden_layers - learner.depth
    states = placement.at_once * config.hidden_size * learner.base.dtype.itemsize
    kept = states * (layers + _PER_LAYER if placement.gradient_checkpointing else layers * _PER_LAYER) // 2
    return Need(
        frozen=frozen,
        trained=sum(p.nbytes for p in trained),
        gradients=sum(p.nbytes for p in trained),
        optimizer=sum(8 * p.numel() for p in trained) + masters,
        activations=kept,
    )


def device_memory(device: torch.device, workers: int) -> int:
    """Bytes of the worker's GPU, or its share of this machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // workers


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
    return PlacementError(
        f"micro_tokens: {placement.at_once} tokens at once were too many for the memory; give fewer, "
        "gradient_checkpointing, or more workers; the run goes on from its last checkpoint"
    )
