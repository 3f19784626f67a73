"""A base whose weights the workers share from the moment it is loaded, so that it need not fit any of them."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["is_shared", "loaded_in_parts", "put", "whole"]


@contextlib.contextmanager
def loaded_in_parts(settings: Mapping[str, Any], dtype: torch.dtype) -> Iterator[None]:
    """Inside, every worker keeps its part of what transformers loads (DeepSpeed's zero.Init); all load the same.

    The first worker reads the weights into its machine's memory, a file after the other, and hands out the parts.

    Args:
        settings: DeepSpeed's, of ZeRO-3.
        dtype: of the base.
    """
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    # DeepSpeed makes weights in the dtype that its own settings train in; ours are trained in that of the adapters.
    told = {**settings, "bf16": {"enabled": dtype == torch.bfloat16}}
    kept = HfDeepSpeedConfig(told)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
        del kept


def is_shared(parameter: nn.Parameter) -> bool:
    """Whether other workers have parts of it."""
    return hasattr(parameter, "ds_id")


@contextlib.contextmanager
def whole(parameter: nn.Parameter) -> Iterator[nn.Parameter]:
    """A parameter with all of its parts; all workers have to ask for it."""
    if not is_shared(parameter):
        yield parameter
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameter):
        yield parameter


def put(parameter: nn.Parameter, value: Tensor) -> None:
    """Give a parameter another value; all workers have to ask for it, each with the whole of it."""
    if not is_shared(parameter):
        parameter.copy_(value)
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameter, modifier_rank=0):
        if dist.get_rank() == 0:
            parameter.copy_(value)
