"""A decoder cut in two: the trunk below the first adapted layer, and the crown above it.

The trunk is frozen, so what it makes of a row is the same in every pass of training and for every adapter on the
same base. Computing it once and keeping the hidden states leaves only the crown to be computed again.

This calls a decoder's layers itself, so it is limited to families whose decoder is embeddings, layers with rotary
positions, and a norm (`FAMILIES`); any other model is computed whole.
"""

from typing import Any

import torch

__all__ = ["FAMILIES", "crown", "trunk"]

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Values of `config.model_type` that this has been written for."""

Mask = torch.Tensor | dict[str, torch.Tensor]
"""[b, 1, t, t], added to the scores; by kind of layer, where there are several."""


@torch.no_grad()
def trunk(decoder: Any, depth: int, input_ids: torch.Tensor, positions: torch.Tensor, mask: Mask) -> Any:
    """Hidden states [b, t, d] that enter layer `depth`, of tokens [b, t]."""
    return _layers(decoder, range(depth), decoder.embed_tokens(input_ids), positions, mask)


def crown(decoder: Any, depth: int, hidden: torch.Tensor, positions: torch.Tensor, mask: Mask) -> Any:
    """The decoder's last hidden states [b, t, d], from those that enter layer `depth`."""
    return decoder.norm(_layers(decoder, range(depth, len(decoder.layers)), hidden, positions, mask))


def _layers(decoder: Any, which: range, hidden: torch.Tensor, positions: torch.Tensor, mask: Mask) -> Any:
    rotary = decoder.rotary_emb(hidden, positions)
    for k in which:
        own = mask[decoder.config.layer_types[k]] if isinstance(mask, dict) else mask
        hidden = decoder.layers[k](hidden, attention_mask=own, position_ids=positions, position_embeddings=rotary)
    return hidden
