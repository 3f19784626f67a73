"""A base whose weights the workers share from the moment it is loaded, so that it need not fit any of them."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["is_shared", "loaded_in_parts", "whole"]


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
