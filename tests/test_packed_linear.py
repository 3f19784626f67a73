"""Packed layers give what they gave before, with and without adapters on them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cp_ray.lora import StackedLora
from cp_ray.packed_linear import PackedLinear, PackedPart, PackedTogether, can_pack, pack
from tests.test_lora import make_adapter, tiny_base

here = pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(dtype, marks=pytest.mark.skipif(not can_pack(dtype), reason=f"no products of {dtype} on this CPU"))
        for dtype in (torch.float32, torch.bfloat16)
    ],
)


@here
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [(1, 1), (1, 7), (3, 1), (5, 40)])
@torch.inference_mode()
def test_the_products_are_the_same(rows: tuple[int, int], bias: bool, dtype: torch.dtype) -> None:
    linear = nn.Linear(96, 200, bias=bias, dtype=dtype)
    x = torch.randn(*rows, 96, dtype=dtype)
    packed = PackedLinear(linear)
    torch.testing.assert_close(packed(x), linear(x))
    assert torch.equal(packed.weight, linear.weight)
    assert [name for name, _ in packed.named_parameters()] == ["bias"] * bias, "the weights lie there once"


@here
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_layers_that_are_given_the_same_are_one_product(bias: bool, dtype: torch.dtype) -> None:
    linears = [nn.Linear(96, out, bias=bias, dtype=dtype) for out in (96, 32, 32)]
    together, x = PackedTogether(linears), torch.randn(2, 7, 96, dtype=dtype)
    parts = [PackedPart(linear, together, place) for place, linear in enumerate(linears)]
    for linear, part, made in zip(linears, parts, together(x), strict=True):
        torch.testing.assert_close(made, linear(x))
        assert torch.equal(made, part(x))
        assert torch.equal(part.weight, linear.weight)
        assert [name for name, _ in part.named_parameters()] == ["bias"] * bias
    with pytest.raises(ValueError, match="either all have one or none"):
        PackedTogether([nn.Linear(4, 4), nn.Linear(4, 4, bias=False)])


def states(model: Any, adapters: dict[str, Path]) -> torch.Tensor:
    lora, ids = StackedLora(model, adapters), torch.arange(12).view(3, 4)
    with torch.inference_mode(), lora.rows(["plain", "lengths", None]):
        found: torch.Tensor = model(input_ids=ids).logits
    return found


@here
def test_a_packed_model_carries_adapters(tmp_path: Path, dtype: torch.dtype) -> None:
    adapters = {
        "plain": make_adapter(tmp_path / "plain", 1, target_modules="all-linear"),
        "lengths": make_adapter(tmp_path / "lengths", 2, use_dora=True),
    }
    model = tiny_base(bias=True).to(dtype)
    pack(model)
    assert isinstance(model.lm_head, PackedLinear)
    near = 0.05 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(
        states(model, adapters), states(tiny_base(bias=True).to(dtype), adapters), rtol=near, atol=near
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_that_cannot_be_packed_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    if dtype != torch.float16:
        monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: False)
    model = tiny_base().to(dtype)
    pack(model)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
