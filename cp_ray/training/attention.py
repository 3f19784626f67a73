"""Attention for short rows on a CPU, where the fused kernel's backward pass costs ten times its forward one.

Scores are kept for the backward pass, t numbers a token and head, so long rows are left to the fused kernel.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["use_short_attention"]

_NAME = "cp_ray_short"

_SHORT = 256
"""Tokens of a row up to which its scores are kept."""


def use_short_attention(base: Any) -> None:
    """Let a transformers model compute short rows by plain products, where it attends by the fused kernel."""
    if base.config._attn_implementation == "sdpa":
        AttentionInterface.register(_NAME, _attend)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        base.set_attn_implementation(_NAME)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Of queries [b, h, t, d], keys and values [b, g, t, d] under an additive mask [b, 1, t, t]: [b, t, h, d]."""
    batch, heads, length, size = query.shape
    if mask is None or length > _SHORT or length != key.shape[2]:
        attended: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **more)
        return attended
    groups = key.shape[1]
    # The heads of a group see the same keys: they are one product, and no key is repeated.
    together = query.reshape(batch, groups, -1, size) * (size**-0.5 if scaling is None else scaling)
    scores = together @ key.transpose(2, 3)
    scores = scores.view(batch, groups, heads // groups, length, length) + mask[:, :, None]
    weighted = torch.softmax(scores, dim=-1).view(batch, groups, -1, length) @ value
    return weighted.view(batch, heads, length, size).transpose(1, 2).contiguous(), None
