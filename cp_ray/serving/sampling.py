"""Drawing the next token of each row of a batch, so that no row's draw depends on its neighbours."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["draw", "uniform"]


def uniform(seed: int, prompt: bytes, step: int) -> float:
    """A number in [0, 1) that depends on the request alone.

    Args:
        seed: the request's.
        prompt: tells requests with one seed apart, which would otherwise all draw alike.
        step: tokens drawn before.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/".encode() + prompt, digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def draw(logits: Tensor, temperatures: Sequence[float], top_ps: Sequence[float], uniforms: Sequence[float]) -> Tensor:
    """The next token of each row: the likeliest at temperature 0, else by the inverse of the distribution function.

    Args:
        logits: [rows, vocabulary].
        temperatures: one per row.
        top_ps: one per row; 1 draws from the whole vocabulary.
        uniforms: one per row, in [0, 1).

    Returns:
        [rows] token ids.
    """
    tokens = logits.argmax(-1)
    hot = [i for i, t in enumerate(temperatures) if t > 0]
    if not hot:
        return tokens
    scale = torch.tensor([temperatures[i] for i in hot], device=logits.device)
    probabilities = torch.softmax(logits[hot].float() / scale[:, None], dim=-1)
    for row, i in enumerate(hot):
        if top_ps[i] < 1:
            probabilities[row] = _nucleus(probabilities[row], top_ps[i])
    total = probabilities.cumsum(-1, dtype=torch.float64)
    target = torch.tensor([uniforms[i] for i in hot], dtype=torch.float64, device=logits.device) * total[:, -1]
    # right=True: the first token whose sum exceeds the target, so a token of probability 0 is never drawn.
    tokens[hot] = torch.searchsorted(total, target[:, None], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return tokens


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    ordered, index = probabilities.sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.where(before < top_p, ordered, 0.0)
    return torch.zeros_like(probabilities).scatter(0, index, kept)
