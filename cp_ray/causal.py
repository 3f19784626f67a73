"""A transformers causal language model in parts: the layers of its decoder, the masks they take, and its head.

How far a layer sees and what becomes of the logits behind the head differ by family, and stand in the configuration.
`cp_ray.branch_probe` finds out whether that was all of it.
"""

from typing import Any

import torch
from torch import Tensor

from cp_ray.errors import BaseModelError

__all__ = ["layers", "logits", "masks", "text_config"]


def text_config(model: Any) -> Any:
    """The configuration of the language model itself; one that also sees or hears has it inside its own."""
    return model.config.get_text_config(decoder=True)


def layers(model: Any) -> Any:
    """The decoder's layers.

    Raises:
        BaseModelError: it keeps them elsewhere.
    """
    decoder = model.get_decoder()
    found = getattr(decoder, "layers", None)
    if found is None:
        raise BaseModelError(
            f"base model: its decoder must have its layers in `layers`, {type(decoder).__name__} has none; choose one "
            "that is built like Llama"
        )
    return found


def masks(model: Any, mask: Tensor, positions: Tensor) -> Tensor | dict[str, Tensor]:
    """What the decoder takes as its attention mask: by kind of layer, where there are several.

    Args:
        model: whose decoder it is.
        mask: [b, 1, t, t], added to the scores.
        positions: [b, t].
    """
    config = text_config(model)
    window: int | None = getattr(config, "sliding_window", None)
    # Where nothing tells the layers apart, a window is for all of them.
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    if not window or "sliding_attention" not in kinds:
        return mask
    # A row's positions are those of its tokens, and a branch's go on from the prompt's.
    far = positions[:, None, :, None] - positions[:, None, None, :] >= window
    near = mask.masked_fill(far, torch.finfo(mask.dtype).min)
    return near if len(kinds) == 1 else {kind: near if kind == "sliding_attention" else mask for kind in kinds}


def logits(model: Any, states: Tensor) -> Tensor:
    """Logits [n, vocabulary] in float32, of the decoder's last hidden states [n, d]."""
    config = text_config(model)
    found: Tensor = model.get_output_embeddings()(states).float()
    if (scaling := getattr(config, "logits_scaling", None)) is not None:  # Granite's; HyperCLOVA X means it otherwise
        found = found * scaling if config.model_type == "hyperclovax" else found / scaling
    if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere's
        found = found * scale
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma's
        found = torch.tanh(found / cap) * cap
    return found
