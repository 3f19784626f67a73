"""Stacked LoRA: many adapters on one frozen base, chosen per row of a batch. PEFT folders in.

The adapters' A matrices lie under each other and their B matrices side by side, so all of them are two dense
products, whatever the mix of rows; a row's mask zeroes what belongs to the other adapters. For this the sum of
the ranks should stay well below the hidden size.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cp_ray.errors import BaseModelError

__all__ = ["StackedLora"]

_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."

_REFUSED = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)
"""Options of PEFT's LoraConfig under which an adapter is more than one A and one B per module."""

_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Initialisations that leave the base's weights alone; with the others the adapter fits a changed base."""


@dataclass(slots=True)
class _Layout:
    """Which adapter owns each rank of a stack; shared by the modules that are stacked alike."""

    owner: Tensor
    """[ranks], index of the adapter."""
    mask: Tensor | None = None
    """[rows, 1, ranks] of 0 and 1 for the rows selected now; None: all rows are the bare base."""


@dataclass(slots=True)
class _Stack:
    """The adapters' matrices for one module, in the order of the adapters."""

    owner: list[int] = field(default_factory=list)
    down: list[Tensor] = field(default_factory=list)
    """[rank, in] each."""
    up: list[Tensor] = field(default_factory=list)
    """[out, rank] each, scaling included."""


class _StackedLinear(nn.Module):
    """A linear layer plus what each row's adapter adds to it."""

    down: Tensor
    up: Tensor

    def __init__(self, base: nn.Linear, stack: _Stack, layout: _Layout) -> None:
        super().__init__()
        self.base = base
        self.layout = layout
        like = base.weight
        self.register_buffer("down", torch.cat(stack.down).to(like.device, like.dtype), persistent=False)
        self.register_buffer("up", torch.cat(stack.up, dim=1).to(like.device, like.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        mask = self.layout.mask
        y: Tensor = self.base(x)
        if mask is None:
            return y
        if x.shape[0] != mask.shape[0]:
            raise ValueError(f"rows: {mask.shape[0]} adapters are selected for a batch of {x.shape[0]}")
        hidden = nn.functional.linear(x, self.down) * mask
        return y + nn.functional.linear(hidden, self.up)


class StackedLora:
    """LoRA adapters on one model, chosen per row of a batch.

    The result of a row equals PEFT's with that adapter, to float tolerance. Outside of `rows` the model is the
    bare base.
    """

    def __init__(self, model: nn.Module, adapters: Mapping[str, Path]) -> None:
        """Put adapters on a model.

        Args:
            model: its target `nn.Linear` modules are replaced.
            adapters: PEFT folders (adapter_config.json, adapter_model.safetensors) by name; ranks and target
                modules may differ.

        Raises:
            BaseModelError: a folder is not a plain LoRA adapter in safetensors, or was made for another base.
        """
        self.names = tuple(adapters)
        """The adapters, in the order given."""
        self._index = {name: i for i, name in enumerate(self.names)}
        self._device = next(model.parameters()).device
        self._dtype = next(model.parameters()).dtype
        self._layouts: dict[tuple[int, ...], _Layout] = {}
        stacks: dict[str, _Stack] = {}
        for name, folder in adapters.items():
            _read(name, folder, self._index[name], model, stacks)
        for path, stack in stacks.items():
            parent, _, leaf = path.rpartition(".")
            replacement = _StackedLinear(_linear(model, path), stack, self._layout(stack.owner))
            setattr(model.get_submodule(parent), leaf, replacement)

    @contextlib.contextmanager
    def rows(self, names: Sequence[str | None]) -> Iterator[None]:
        """Select an adapter per row for the forward passes inside; None is the bare base.

        Args:
            names: one for each row of the batch.

        Raises:
            KeyError: an adapter is unknown.
        """
        chosen = torch.tensor([-1 if n is None else self._index[n] for n in names], device=self._device)
        bare = all(n is None for n in names)
        before = [layout.mask for layout in self._layouts.values()]
        for layout in self._layouts.values():
            mask = (layout.owner[None, None, :] == chosen[:, None, None]).to(self._dtype)
            layout.mask = None if bare else mask
        try:
            yield
        finally:
            for layout, mask_before in zip(self._layouts.values(), before, strict=True):
                layout.mask = mask_before

    @staticmethod
    def touches(module: nn.Module) -> bool:
        """Does an adapter change anything inside this module?"""
        return any(isinstance(part, _StackedLinear) for part in module.modules())

    def _layout(self, owner: list[int]) -> _Layout:
        key = tuple(owner)
        if key not in self._layouts:
            self._layouts[key] = _Layout(torch.tensor(owner, device=self._device))
        return self._layouts[key]


def _read(name: str, folder: Path, index: int, model: nn.Module, stacks: dict[str, _Stack]) -> None:
    """Add the matrices of one adapter to the stacks of its modules."""
    scaling_of = _scaling(name, folder)
    weights = _weights(name, folder)
    odd = [key for key in weights if not key.endswith((".lora_A.weight", ".lora_B.weight"))]
    if odd:
        raise BaseModelError(f"adapter {name!r}: weight {min(odd)} is not plain LoRA; train it with PEFT's defaults")
    for key in sorted(k for k in weights if k.endswith(".lora_A.weight")):
        path = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        down, up = weights[key], weights.get(key.replace(".lora_A.", ".lora_B."))
        linear = _linear(model, path, adapter=name)
        if up is None or down.shape[1] != linear.in_features or up.shape[0] != linear.out_features:
            raise BaseModelError(f"adapter {name!r}: its matrices do not fit {path}; it was made for another base")
        stack = stacks.setdefault(path, _Stack())
        stack.owner.extend([index] * down.shape[0])
        stack.down.append(down)
        stack.up.append(up * scaling_of(down.shape[0]))


def _scaling(name: str, folder: Path) -> Callable[[int], float]:
    """A function from rank to scaling, from an adapter's configuration."""
    path = folder / "adapter_config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"adapter {name!r}: cannot read {path}; give a PEFT folder") from error
    if config.get("peft_type") != "LORA":
        raise BaseModelError(f"adapter {name!r}: peft_type must be LORA, got {config.get('peft_type')!r}")
    if config.get("bias", "none") != "none":
        raise BaseModelError(f"adapter {name!r}: bias must be 'none', got {config['bias']!r}; only plain LoRA")
    for option in _REFUSED:
        if config.get(option):
            raise BaseModelError(f"adapter {name!r}: {option} must be off, got {config[option]!r}; only plain LoRA")
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise BaseModelError(f"adapter {name!r}: init_lora_weights {start!r} changes the base; convert it with PEFT")
    alpha, rslora = float(config["lora_alpha"]), bool(config.get("use_rslora"))
    return lambda rank: alpha / (math.sqrt(rank) if rslora else rank)


def _weights(name: str, folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / _WEIGHTS
    if not path.is_file():
        raise BaseModelError(f"adapter {name!r}: no {_WEIGHTS} in {folder}; .bin files are pickles and not read")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise BaseModelError(f"adapter {name!r}: {path} is damaged ({error}); copy it again") from error


def _linear(model: nn.Module, path: str, adapter: str = "") -> nn.Linear:
    try:
        module = model.get_submodule(path)
    except AttributeError as error:
        raise BaseModelError(f"adapter {adapter!r}: the base has no module {path}; it was made for another") from error
    if not isinstance(module, nn.Linear):
        raise BaseModelError(f"adapter {adapter!r}: {path} is a {type(module).__name__}; only linear layers can adapt")
    return module
