"""Linear layers whose weights lie in memory as a CPU's matrix units take them; for inference.

Matrices are multiplied in blocks. Weights that lie row by row are put into blocks anew in every pass, of more than one
token in float32. Where a batch has few tokens, a pass takes as long as reading the weights does, and that is quicker on
huge pages, which glibc asks for where it is told to before the process begins (`python -m benchmarks.engine_steps`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["HUGE_PAGES", "PackedLinear", "PackedPart", "PackedTogether", "can_pack", "pack"]

HUGE_PAGES = {
    "GLIBC_TUNABLES": ":".join(
        f"glibc.malloc.{name}={value}"
        for name, value in {"hugetlb": 1, "arena_max": 1, "mmap_threshold": 2**25, "trim_threshold": 2**33}.items()
    )
}
"""Environment of a process whose weights are read in every step. One arena: those that threads have of their own are
never on huge pages. What a step frees is kept for the next one, which would get it zeroed page by page otherwise.
Other C libraries take no notice."""


class PackedLinear(nn.Linear):
    """A linear layer on a CPU that takes [..., in] to [..., out], and no gradient back."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make weights
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_parameter("bias", linear.bias)
        self._packed = _packed(linear.weight.detach())

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """[out, in], row by row: a copy."""
        weight: Tensor = self._packed.to_dense()
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return _product(x, self._packed, self.bias)


class PackedTogether:
    """Layers that are given the same: one product, which takes half as long as three."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
        if len(biases) not in (0, len(linears)):
            raise ValueError("bias: either all have one or none")
        self.packed = _packed(torch.cat([linear.weight.detach() for linear in linears]))
        self.bias = torch.cat(biases) if biases else None
        self.sizes = [linear.out_features for linear in linears]

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """[..., in] to [..., out] of each."""
        return torch.split(_product(x, self.packed, self.bias), self.sizes, -1)


class PackedPart(nn.Linear):
    """One of `PackedTogether`'s layers."""

    def __init__(self, linear: nn.Linear, together: PackedTogether, place: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_parameter("bias", linear.bias)
        self.together, self._place = together, place

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """[out, in], row by row: a copy."""
        return torch.split(self.together.packed.to_dense(), self.together.sizes)[self._place]

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]; whoever wants those of the other layers too asks `together`."""
        return self.together(x)[self._place]


def pack(model: Any, together: Iterable[Sequence[str]] = ()) -> None:
    """Pack the linear layers of a transformers model on a CPU that has products of its type; else do nothing.

    Args:
        model: its `nn.Linear` modules are replaced.
        together: paths of layers that are given the same.
    """
    if not (model.device.type == "cpu" and can_pack(model.dtype)):
        return
    for paths in together:
        linears = [model.get_submodule(path) for path in paths]
        one = PackedTogether(linears)
        for place, (path, linear) in enumerate(zip(paths, linears, strict=True)):
            _replace(model, path, PackedPart(linear, one, place))
    for path in [path for path, module in model.named_modules() if type(module) is nn.Linear]:
        _replace(model, path, PackedLinear(model.get_submodule(path)))


def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN is here and multiplies this type on this CPU."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def _replace(model: Any, path: str, layer: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, layer)


def _packed(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return y
