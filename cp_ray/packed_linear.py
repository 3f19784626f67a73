"""Linear layers whose 16-bit weights lie in memory as a CPU's matrix units take them; for inference.

oneDNN multiplies 16-bit matrices in blocks. Weights that lie row by row are put into blocks anew in every pass. Where a
batch has few tokens, a pass takes as long as reading the weights does, and that is quicker on huge pages, which glibc
asks for where it is told to before the process begins (`python -m benchmarks.engine_steps`).
"""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["HUGE_PAGES", "PackedLinear", "can_pack", "pack"]

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
    """A linear layer on a CPU that takes [..., in] to [..., out] in bfloat16, and no gradient back."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make weights
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_parameter("bias", linear.bias)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """[out, in], row by row: a copy."""
        weight: Tensor = self._packed.to_dense()
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return y


def pack(model: Any) -> None:
    """Pack the linear layers of a transformers model in bfloat16 on a CPU that has products of it; else do nothing."""
    if model.device.type == "cpu" and model.dtype == torch.bfloat16 and can_pack():
        linear = [path for path, module in model.named_modules() if type(module) is nn.Linear]
        for path in linear:
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, PackedLinear(model.get_submodule(path)))


def can_pack() -> bool:
    """Whether oneDNN is here and multiplies bfloat16 on this CPU."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
