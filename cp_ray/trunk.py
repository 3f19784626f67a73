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


@torch.no_grad()
def trunk(decoder: Any, depth: int, input_ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> Any:
    """Hidden states [b, t, d] that enter layer `depth`, of tokens [b, t] under an additive mask [b, 1, t, t]."""
    hidden = decoder.embed_tokens(input_ids)
    return _layers(decoder, decoder.layers[:depth], hidden, positions, mask)


def crown(decoder: Any, depth: int, hidden: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> Any:
    """The decoder's last hidden states [b, t, d], from those that enter layer `depth`."""
    return decoder.norm(_layers(decoder, decoder.layers[depth:], hidden, positions, mask))


def _layers(decoder: Any, layers: Any, hidden: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> Any:
    rotary = decoder.rotary_emb(hidden, positions)
    for layer in layers:
        hidden = layer(hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
    return hidden
