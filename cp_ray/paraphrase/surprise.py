"""How odd a text looks to a language model that has just read the question: wrong words stand out."""

from collections.abc import Sequence
from typing import Any

__all__ = ["Surprise"]

_BATCH = 16


class Surprise:
    """Loads a causal language model once."""

    def __init__(self, model: str = "smollm2") -> None:
        """Load it: `smollm2`, a folder, or a Hugging Face id."""
        from cp_ray.llm.embedded import load_base

        self._model, self._tokenizer = load_base(model)

    def of(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, float]]:
        """For each seed and text the greatest and the mean surprise of the text's tokens, in nats."""
        order = sorted(range(len(pairs)), key=lambda k: sum(map(len, pairs[k])))
        found: dict[int, tuple[float, float]] = {}
        for start in range(0, len(order), _BATCH):
            some = order[start : start + _BATCH]
            found |= dict(zip(some, self._batch([pairs[k] for k in some]), strict=True))
        return [found[k] for k in range(len(pairs))]

    def _batch(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, float]]:
        import torch

        seeds: list[list[int]] = [self._tokens(f"{seed}\n") for seed, _ in pairs]
        texts: list[list[int]] = [self._tokens(text) or [self._tokenizer.eos_token_id] for _, text in pairs]
        first = self._tokenizer.bos_token_id or self._tokenizer.eos_token_id
        rows = [[first, *seed, *text] for seed, text in zip(seeds, texts, strict=True)]
        width = max(map(len, rows))
        padded: Any = torch.tensor([row + [first] * (width - len(row)) for row in rows], device=self._model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self._model.device)
        with torch.inference_mode():
            logits = self._model(input_ids=padded, attention_mask=mask).logits[:, :-1].float()
        taken = logits.gather(-1, padded[:, 1:, None])[..., 0]
        nats = (logits.logsumexp(-1) - taken).cpu()
        ends = [(len(row) - len(text) - 1, len(row) - 1) for row, text in zip(rows, texts, strict=True)]
        return [(float(own[a:b].max()), float(own[a:b].mean())) for own, (a, b) in zip(nats, ends, strict=True)]

    def _tokens(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return found
