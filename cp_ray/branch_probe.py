"""Whether a model gives answers beside each other the probabilities that each has alone, found out when it is loaded.

A layer that keeps a state from token to token sees an answer's neighbours, whatever the mask says, and a family may do
something to its logits that `cp_ray.causal` does not know. Both would give wrong probabilities, and no error. One row
of a few tokens is computed in both ways.
"""

from typing import Any

import torch

from cp_ray.branches import Branches, collate, hidden_states
from cp_ray.causal import logits, text_config
from cp_ray.errors import BaseModelError
from cp_ray.llm.hub import first_line

__all__ = ["check_branches"]

_PROMPT, _ANSWER = 6, 5
"""Tokens."""

_MOST, _MOST_IN_16_BITS = 0.005, 0.15
"""What may lie between the two by rounding. SmolLM2's are 0.000004 and 0.04 apart at most, and 0.45 at least where an
answer sees the one before it."""


def check_branches(model: Any) -> None:
    """See whether a transformers causal language model can compute several answers to one prompt at once.

    Raises:
        BaseModelError: it cannot, or their probabilities would not be those of the answers alone.
    """
    family = model.config.model_type
    try:
        apart = _apart(model)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise BaseModelError(
            f"base model: {family} cannot compute several answers to one prompt at once ({first_line(error)}); choose "
            "a base with attention in all layers, as Llama, Qwen3 or Gemma"
        ) from error
    most = _MOST if model.dtype.itemsize > 2 else _MOST_IN_16_BITS
    if not apart <= most:  # nor is it a number
        raise BaseModelError(
            f"base model: answers to one prompt must have the probabilities that each has alone, those of {family} are "
            f"up to {apart:.2f} apart; choose a base with attention in all layers, as Llama, Qwen3 or Gemma"
        )


@torch.no_grad()
def _apart(model: Any) -> float:
    """How far what is predicted at a token of a branch is from what the plain model predicts there, 1 at most."""
    first = text_config(model).vocab_size // 2  # in the middle of a vocabulary there are plain words
    ids = tuple(range(first, first + _PROMPT + 2 * _ANSWER))
    prompt, answers = ids[:_PROMPT], (ids[_PROMPT:-_ANSWER], ids[-_ANSWER:])
    batch = collate([Branches(prompt, answers, (1.0, 1.0))], 0).to(model.device)
    branched = logits(model, hidden_states(model, batch)[batch.row, batch.place]).softmax(-1)
    alone = torch.tensor([prompt + answer for answer in answers], device=model.device)
    plain = model(input_ids=alone, use_cache=False).logits[:, _PROMPT - 1 : -1].float().softmax(-1)
    return float((branched - plain.flatten(0, 1)).abs().sum(-1).max()) / 2
