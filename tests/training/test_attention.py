"""Attention of short rows, beside the kernel that transformers takes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from cp_ray.training.attention import _attend


@pytest.mark.parametrize(("heads", "groups", "length"), [(6, 2, 17), (4, 4, 5), (2, 1, 300)])
def test_values_and_gradients_are_the_fused_kernels(heads: int, groups: int, length: int) -> None:
    torch.manual_seed(0)
    shapes = [(2, heads, length, 8), (2, groups, length, 8), (2, groups, length, 8)]
    query, key, value = (torch.randn(shape, requires_grad=True) for shape in shapes)
    # Two branches behind a prompt: the second does not see the first.
    seen = torch.ones(length, length).tril().bool()
    seen[-2:, 1:-2] = False
    mask = torch.zeros(2, 1, length, length).masked_fill(~seen, torch.finfo(torch.float32).min)
    module: Any = SimpleNamespace(num_key_value_groups=heads // groups, is_causal=True, training=True)
    found = []
    for attend in (sdpa_attention_forward, _attend):
        made, _ = attend(module, query, key, value, mask, scaling=0.3, dropout=0.0)
        found.append([made, *torch.autograd.grad(made.sin().sum(), (query, key, value))])
    for ours, theirs in zip(*found, strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, atol=1e-5)
