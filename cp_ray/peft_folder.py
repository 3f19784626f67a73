"""A PEFT folder's LoRA or DoRA adapter as matrices, once they are known to fit a base.

Weights come from safetensors only: other formats are pickles, which run what they hold.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cp_ray.errors import BaseModelError

__all__ = ["Added", "linear_of", "rank_of", "read_adapter"]

_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_LENGTHS = ".lora_magnitude_vector"

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
    "use_qalora",
)
"""Options of PEFT's LoraConfig under which an adapter is more than one A, one B and lengths per module."""

_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Initialisations that leave the base's weights alone; with the others the adapter fits a changed base."""


@dataclass(frozen=True, slots=True)
class Added:
    """What an adapter adds to one linear layer."""

    down: Tensor
    """[rank, in]."""
    up: Tensor
    """[rank, out], scaling included."""
    stretch: Tensor | None
    """[out] of a DoRA adapter: by which share of themselves the rows of W + BA are to be longer."""


def read_adapter(name: str, folder: Path, weight_of: Callable[[str], nn.Linear]) -> dict[str, Added]:
    """An adapter's matrices by the path of the layer that they belong to.

    Args:
        name: what errors call it.
        folder: adapter_config.json and adapter_model.safetensors.
        weight_of: the base's linear layer at a path, as `linear_of` finds it.

    Raises:
        BaseModelError: the folder is not a LoRA or DoRA adapter in safetensors, or was made for another base.
    """
    config = _config(name, folder)
    scaling_of, dora = _scaling(config), bool(config.get("use_dora"))
    weights = _weights(name, folder)
    kinds = (".lora_A.weight", ".lora_B.weight", *([_LENGTHS] if dora else []))
    odd = [key for key in weights if not key.endswith(kinds)]
    if odd:
        raise BaseModelError(f"adapter {name!r}: weight {min(odd)} is not plain LoRA; train it with PEFT's defaults")
    found: dict[str, Added] = {}
    for key in sorted(k for k in weights if k.endswith(".lora_A.weight")):
        path = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        down, up = weights[key], weights.get(key.replace(".lora_A.", ".lora_B."))
        linear = weight_of(path)
        if up is None or down.shape[1] != linear.in_features or up.shape[0] != linear.out_features:
            raise BaseModelError(f"adapter {name!r}: its matrices do not fit {path}; it was made for another base")
        scaled = up * scaling_of(down.shape[0])
        stretch = None
        if dora:
            lengths = weights.get(key.replace(".lora_A.weight", _LENGTHS))
            if lengths is None or lengths.shape != (linear.out_features,):
                raise BaseModelError(
                    f"adapter {name!r}: {path} has no lengths of DoRA that fit; save it with PEFT again"
                )
            stretch = lengths.float() / _row_lengths(linear.weight, scaled, down) - 1
        for matrix in (down, scaled, *([] if stretch is None else [stretch])):
            if not matrix.to(linear.weight.dtype).isfinite().all():
                raise BaseModelError(
                    f"adapter {name!r}: weights of {path} are not finite; its training has diverged, train it anew"
                )
        found[path] = Added(down, scaled.T, stretch)
    return found


def rank_of(name: str, folder: Path) -> int:
    """An adapter's rank.

    Raises:
        BaseModelError: the folder is not a LoRA adapter's, or one under options that make it more than that.
    """
    return int(_config(name, folder)["r"])


def linear_of(model: nn.Module, path: str, adapter: str = "") -> nn.Linear:
    """The linear layer at a path of a model.

    Raises:
        BaseModelError: there is none; the adapter was made for another base.
    """
    try:
        module = model.get_submodule(path)
    except AttributeError as error:
        raise BaseModelError(f"adapter {adapter!r}: the base has no module {path}; it was made for another") from error
    if not isinstance(module, nn.Linear):
        raise BaseModelError(f"adapter {adapter!r}: {path} is a {type(module).__name__}; only linear layers can adapt")
    return module


@torch.no_grad()
def _row_lengths(weight: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """[out], of the rows of W + BA."""
    added = up.to(weight.device, torch.float32) @ down.to(weight.device, torch.float32)
    found: Tensor = torch.linalg.vector_norm(weight.float() + added, dim=1)
    return found.cpu()


def _config(name: str, folder: Path) -> dict[str, Any]:
    """An adapter's configuration, once it is one that can be stacked."""
    path = folder / "adapter_config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"adapter {name!r}: cannot read {path}; give a PEFT folder") from error
    if not isinstance(config, dict):
        raise BaseModelError(f"adapter {name!r}: {path} must hold an object; give a PEFT folder")
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
    return config


def _scaling(config: dict[str, Any]) -> Callable[[int], float]:
    """A function from rank to scaling."""
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
