"""Gradients where every worker keeps all of them: each adapter's in one piece of memory, the same in every step.

Made anew in each step, they would come to lie between what the passes of that step keep for a moment, and memory in
pieces is memory lost; and the workers' would be copied together before they could be added up.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

__all__ = ["Gradients"]


class Gradients:
    """Of some adapters, by their number."""

    def __init__(self, adapters: Sequence[Sequence[nn.Parameter]]) -> None:
        """Take the parameters of each, which are of one type and on one device."""
        self._adapters = adapters
        self._whole = [own[0].new_zeros(sum(p.numel() for p in own)) for own in adapters]

    def clear(self, active: Sequence[int]) -> None:
        """Let a step begin: those of active adapters are 0, the others have none."""
        for k in active:
            self._whole[k].zero_()
            parts = torch.split(self._whole[k], [p.numel() for p in self._adapters[k]])
            for parameter, part in zip(self._adapters[k], parts, strict=True):
                parameter.grad = part.view_as(parameter)

    def average(self, active: Sequence[int], engine: Any) -> None:
        """Give every worker the mean of all workers', in DeepSpeed's way and by the user's settings of it."""
        if dist.get_world_size() > 1:
            # Each in a buffer by itself, which needs no copy.
            engine.buffered_allreduce_fallback(grads=[self._whole[k] for k in active], elements_per_buffer=0)
