"""AdamW for several adapters at once: each has its own learning rate, schedule, clipping, and end."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["AdapterAdamW", "rate_factor"]


class AdapterAdamW(torch.optim.AdamW):
    """AdamW with a group of parameters for each adapter.

    A group is clipped to its own `max_grad_norm`, and left alone while its `active` is False: its weights and moments
    stay as they are.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], *, shared_on: torch.device | None) -> None:
        """Take groups with the keys params, lr, weight_decay, max_grad_norm.

        `shared_on`: ZeRO gives every worker a part of each group, and the norm goes over all of them; on this device,
        since offloaded gradients lie where the workers of GPUs cannot add up.
        """
        self.shared_on = shared_on
        super().__init__([{**group, "active": True} for group in groups], fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Clip and update the active groups."""
        left: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            given = [(p, p.grad) for p in group["params"] if p.grad is not None]
            if not group["active"]:
                left += given
            elif given:
                self._clip([gradient for _, gradient in given], group["max_grad_norm"])
        for parameter, _ in left:
            parameter.grad = None
        super().step(closure)
        # DeepSpeed writes what it offloads into the same memory in every step.
        for parameter, gradient in left:
            parameter.grad = gradient

    def _clip(self, gradients: Sequence[Tensor], limit: float) -> None:
        norms = torch._foreach_norm(list(gradients))
        squared = torch.stack(norms).square().sum()
        if self.shared_on is not None:
            squared = squared.to(self.shared_on)
            dist.all_reduce(squared)
        factor = limit / (squared.sqrt() + 1e-6)
        if float(factor) < 1:
            torch._foreach_mul_(list(gradients), factor.to(gradients[0].device))


def rate_factor(step: int, steps: int, warmup: float) -> float:
    """What the learning rate is multiplied with at a step (from 0): it rises, then falls to 0 in a straight line."""
    rising = max(1, round(steps * warmup))
    return min(1.0, (step + 1) / rising) * max(0.0, (steps - step) / steps)
