"""How odd a text looks to a language model that has just read the question: wrong words stand out."""

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["Surprise"]

_BATCH = 16


class Surprise:
    """Loads a causal language model once."""

    def __init__(self, model: str = "smollm2") -> None:
        """Load it: `smollm2`, a folder, or a Hugging Face id."""
        from cp_ray.llm.embedded import load_base

        self._model, self._tokenizer = load_base(model, chat=False)
        self._first: int = next(
            id for id in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id, 0) if id is not None
        )

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

        texts = [self._tokens(text) or [self._first] for _, text in pairs]
        rows = [[self._first, *self._tokens(f"{seed}\n"), *own] for (seed, _), own in zip(pairs, texts, strict=True)]
        width = max(map(len, rows))
        ids = torch.tensor([row + [self._first] * (width - len(row)) for row in rows], device=self._model.device)
        # Padded on the right: a causal model's earlier places do not see it.
        there = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self._model.device)
        with torch.inference_mode():
            states = self._model.base_model(input_ids=ids, attention_mask=there, use_cache=False).last_hidden_state
            # The vocabulary's logits are most of the work, so they are made where they count alone.
            before = torch.cat([states[k, len(row) - len(t) - 1 : len(row) - 1] for k, (row, t) in _both(rows, texts)])
            logits = self._model.get_output_embeddings()(before).float()
            wanted = torch.tensor([token for own in texts for token in own], device=logits.device)
            nats = torch.nn.functional.cross_entropy(logits, wanted, reduction="none").cpu()
        return [(float(own.max()), float(own.mean())) for own in torch.split(nats, [len(own) for own in texts])]

    def _tokens(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return found


def _both(rows: Sequence[Any], texts: Sequence[Any]) -> Iterable[tuple[int, tuple[Any, Any]]]:
    return enumerate(zip(rows, texts, strict=True))
