"""Trainable adapters on a frozen base: any number of them, each row of a batch under one.

The rows of a batch stand in the order of their adapters, so every adapter's part is one slice, and its gradient comes
from its own rows alone: the others' rows never meet its matrices. What an adapter learns beside others is what it
learns alone, up to rounding.

LoRA (arXiv:2106.09685) adds `s · B A x` to `W x`; DoRA (arXiv:2402.09353) also learns the length of every row of
`W + s · B A`. The matrices are float32, whatever the base is in, and are cast when they are used.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cp_ray.causal import layers
from cp_ray.errors import BaseModelError, ConfigError
from cp_ray.training.shared import whole

__all__ = ["Adapters"]

_PREFIX = "base_model.model."
"""What PEFT puts before a module's path."""


@dataclass(frozen=True, slots=True)
class _Segment:
    """Rows of a batch under one adapter."""

    adapter: int
    start: int
    end: int


@dataclass(slots=True)
class _Selection:
    """The segments of the batch at hand; shared by all adapted modules."""

    segments: tuple[_Segment, ...] = ()
    together: bool = False
    """The segments are of one length, and may be computed in one product."""


@dataclass(slots=True)
class _Shape:
    rank: int
    scaling: float
    dora: bool
    names: list[str] = field(default_factory=list)


class _Adapted(nn.Module):
    """A linear map and what each adapter adds to it.

    The parameters stand on the module itself: ZeRO-3 gathers those of the module that is called.
    """

    def __init__(self, base: Any, path: str, shape: _Shape, seed: int, selection: _Selection) -> None:
        super().__init__()
        self.base = base
        self.scaling = shape.scaling
        self.dora = shape.dora
        self.selection = selection
        for k in range(len(shape.names)):
            down, up = _start(base, shape.rank, f"{seed}/{path}")
            self.register_parameter(f"down_{k}", nn.Parameter(down))
            self.register_parameter(f"up_{k}", nn.Parameter(up))
            if shape.dora:
                with whole(base.weight) as weight:
                    length = torch.linalg.vector_norm(weight.detach().float(), dim=1)
                self.register_parameter(f"magnitude_{k}", nn.Parameter(length))

    def forward(self, x: Tensor) -> Tensor:
        """[b, t, in] to [b, t, out], the rows as the selection says; those of the bare base while it says nothing."""
        y: Tensor = self.base(x)
        segments = self.selection.segments
        if not segments:
            return y
        if len(segments) == 1:
            return self._one(x, y, segments[0].adapter)
        if self.selection.together and not self.dora:
            return self._together(x, y, segments)
        return torch.cat([self._one(x[s.start : s.end], y[s.start : s.end], s.adapter) for s in segments])

    def _together(self, x: Tensor, y: Tensor, segments: Sequence[_Segment]) -> Tensor:
        """As many rows of each adapter: two products for all of them."""
        downs, ups = (
            torch.stack([self.get_parameter(f"{part}_{s.adapter}") for s in segments]).to(x.dtype)
            for part in ("down", "up")
        )
        hidden = torch.bmm(x.reshape(len(segments), -1, x.shape[-1]), downs.transpose(1, 2)) * self.scaling
        added = torch.baddbmm(y.reshape(len(segments), -1, y.shape[-1]), hidden, ups.transpose(1, 2))
        return added.view(y.shape)

    def _one(self, x: Tensor, y: Tensor, adapter: int) -> Tensor:
        down, up = self.get_parameter(f"down_{adapter}"), self.get_parameter(f"up_{adapter}")
        hidden = nn.functional.linear(x, down.to(x.dtype)) * self.scaling
        if not self.dora:
            return torch.addmm(y.flatten(0, -2), hidden.flatten(0, -2), up.to(x.dtype).T).view(y.shape)
        added = nn.functional.linear(hidden, up.to(x.dtype))
        # The length is a constant to the gradient, as in section 4.3 of the paper and in PEFT.
        whole = self.base.weight.detach().float() + self.scaling * (up.detach() @ down.detach())
        stretch = self.get_parameter(f"magnitude_{adapter}") / torch.linalg.vector_norm(whole, dim=1)
        bias = self.base.bias if self.base.bias is not None else 0
        changed: Tensor = (y - bias + added) * stretch.to(x.dtype) + bias
        return changed


class Adapters:
    """The adapters of a training run, on their base."""

    def __init__(
        self,
        base: Any,
        names: Sequence[str],
        *,
        rank: int,
        alpha: float,
        seed: int,
        dora: bool = False,
        from_layer: int = 0,
    ) -> None:
        """Freeze the base and put fresh adapters on every linear map of its layers.

        All adapters begin with the same matrices, which depend on the seed alone: what tells them apart in the end is
        what they learnt, and no luck of the beginning.

        Args:
            base: a transformers causal language model; its linear modules are replaced.
            names: of the adapters.
            rank: of each.
            alpha: the scaling is alpha / rank.
            seed: of the first matrices.
            dora: learn the rows' lengths too.
            from_layer: the first layer that is adapted.

        Raises:
            ConfigError: the weights of the base are quantised, and DoRA would need them.
            BaseModelError: there is no linear map in its layers.
        """
        self.names = tuple(names)
        self.rank, self.alpha, self.dora = rank, alpha, dora
        self._selection = _Selection()
        self._modules: dict[str, _Adapted] = {}
        base.requires_grad_(False)
        shape = _Shape(rank, alpha / rank, dora, list(names))
        for path in _paths(base, from_layer):
            parent, _, leaf = path.rpartition(".")
            linear = base.get_submodule(path)
            if dora and not linear.weight.is_floating_point():
                raise ConfigError("method: dora needs the base's weights as they are, not quantised; choose qlora")
            self._modules[path] = _Adapted(linear, path, shape, seed, self._selection)
            setattr(base.get_submodule(parent), leaf, self._modules[path])
        self.targets, self.layers = _where(base, list(self._modules), from_layer)
        """Names of the adapted modules and indices of their layers (None: all), as PEFT wants them."""

    def select(self, adapters: Sequence[int], *, everyone: bool = False) -> None:
        """Say whose row each row of the next batch is; they must stand in the order of the adapters.

        Args:
            adapters: index of the adapter of each row, ascending.
            everyone: adapters without a row take part with none, so that the gradients of all workers come in the
                same order.
        """
        segments = []
        for k in range(len(self.names)) if everyone else sorted(set(adapters)):
            start = sum(a < k for a in adapters)
            segments.append(_Segment(k, start, start + sum(a == k for a in adapters)))
        self._selection.segments = tuple(segments)
        # On several workers of ZeRO all have to go the same way, or their gradients would come in different orders.
        self._selection.together = not everyone and len({s.end - s.start for s in segments}) == 1

    def parameters(self, adapter: int) -> Iterator[tuple[str, nn.Parameter]]:
        """An adapter's parameters with the names that PEFT gives them, in an order that is always the same."""
        for path, module in self._modules.items():
            yield f"{_PREFIX}{path}.lora_A.weight", module.get_parameter(f"down_{adapter}")
            yield f"{_PREFIX}{path}.lora_B.weight", module.get_parameter(f"up_{adapter}")
            if self.dora:
                yield f"{_PREFIX}{path}.lora_magnitude_vector", module.get_parameter(f"magnitude_{adapter}")


def _paths(base: Any, from_layer: int) -> list[str]:
    adapted = {id(layer) for layer in layers(base)[from_layer:]}
    prefixes = [f"{name}." for name, module in base.named_modules() if id(module) in adapted]
    found = [name for name in _linears(base) if name.startswith(tuple(prefixes))]
    if not found:
        kinds = ", ".join(sorted({type(part).__name__ for part in layers(base)[from_layer].modules()}))
        raise BaseModelError(f"base model: its layers need linear maps to be adapted, got {kinds}; choose another")
    return found


def _linears(base: Any) -> list[str]:
    return [name for name, module in base.named_modules() if _is_linear(module)]


def _where(base: Any, adapted: Sequence[str], from_layer: int) -> tuple[list[str], list[int] | None]:
    """Names of adapted modules within a layer, and the layers' indices.

    Whole paths where other parts of the model have modules of the same names, as that which sees.
    """
    names = {path.rpartition(".")[2] for path in adapted}
    inside = tuple(f"{name}." for name, module in base.named_modules() if module is layers(base))
    if any(path.rpartition(".")[2] in names and not path.startswith(inside) for path in _linears(base)):
        return sorted(adapted), None
    return sorted(names), list(range(from_layer, len(layers(base)))) if from_layer else None


def _is_linear(module: nn.Module) -> bool:
    # bitsandbytes' Linear4bit is one too.
    return isinstance(module, nn.Linear)


def _start(base: Any, rank: int, key: str) -> tuple[Tensor, Tensor]:
    """A as PEFT draws it, from a generator of its own, and B of zeros."""
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1)
    down = torch.empty(rank, base.in_features)
    nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
    device = base.weight.device
    return down.to(device), torch.zeros(base.out_features, rank, device=device)
