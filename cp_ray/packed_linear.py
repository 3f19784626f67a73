"""Linear layers whose 16-bit weights lie in memory as a CPU's matrix units take them; for inference.

oneDNN multiplies 16-bit matrices in blocks. Weights that lie row by row are put into blocks anew in every pass, which
takes about as long as the product itself where a batch has few tokens. Put so once, the products are the same to the
last bit.
"""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PackedLinear", "pack"]


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
    """Pack the linear layers of a transformers model that is on a CPU and in bfloat16; leave any other as it is."""
    onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if model.device.type != "cpu" or model.dtype != torch.bfloat16 or not onednn:
        return
    linear = [path for path, module in model.named_modules() if type(module) is nn.Linear]
    for path in linear:
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, PackedLinear(model.get_submodule(path)))
