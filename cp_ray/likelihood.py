"""How likely texts are to a causal language model, token by token: what perplexity and surprise are made of."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Likelihood"]

_TOKENS = 1024
"""In a batch, padding included: the vocabulary's logits of so many are a few hundred MB."""


class Likelihood:
    """A causal language model, base or chat, that reads texts as they are, without a chat template."""

    def __init__(self, name: str = "smollm2", device: str | None = None) -> None:
        """Load it: `smollm2`, a folder, or a Hugging Face id; on a GPU where there is one, unless `device` is given.

        It computes in float32: in bfloat16 a text's figures would depend on the machine and on the texts beside it.

        Raises:
            BaseModelError: it cannot be loaded, or it has no token to begin a text with.
        """
        import torch

        from cp_ray.devices import best_device
        from cp_ray.errors import BaseModelError
        from cp_ray.llm.embedded import load_base

        self.device = device or best_device()
        self.model, self.tokenizer = load_base(name, device=self.device, chat=False, dtype=torch.float32)
        ids = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        first = next((id for id in ids if id is not None), None)
        if first is None:
            raise BaseModelError(f"base model: {name!r} has neither a first nor a last token; choose another")
        self.first: int = first
        self.longest = int(getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 2048)

    def __call__(
        self, texts: Sequence[str], contexts: Sequence[str] | None = None, tokens: int = _TOKENS
    ) -> "list[NDArray[np.float32]]":
        """Negative log-likelihood of each token of each text, in nats: an array [n] a text, empty where it is empty.

        A text is read after the model's first token and its context. Where both are longer than the model's own
        context, the beginning of the one and then the end of the other are not read.

        Args:
            texts: what is measured.
            contexts: what stands before each; None for nothing.
            tokens: of a batch at most; texts of like length share one, and a longer text has one to itself.
        """
        import numpy as np

        rows = [self._row(*pair) for pair in zip(texts, contexts or [""] * len(texts), strict=True)]
        found = [np.zeros(0, np.float32) for _ in rows]
        for batch in _batches([len(ids) if n else 0 for ids, n in rows], tokens):
            for k, nats in zip(batch, self._nats([rows[k] for k in batch]), strict=True):
                found[k] = nats
        return found

    def _row(self, text: str, context: str) -> tuple[list[int], int]:
        """What the model reads, and how many of the last tokens are the text's."""
        own = self._ids(text)[: self.longest - 1]
        before = self._ids(context)
        room = self.longest - 1 - len(own)
        return [self.first, *before[max(0, len(before) - room) :], *own], len(own)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return ids

    def _nats(self, rows: Sequence[tuple[Sequence[int], int]]) -> "list[NDArray[np.float32]]":
        import torch

        width = max(len(ids) for ids, _ in rows)
        # Padded on the right: a causal model's earlier places do not see it.
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        there, predicts = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for k, (row, n) in enumerate(rows):
            ids[k, : len(row)], there[k, : len(row)] = torch.tensor(row), 1
            predicts[k, len(row) - n - 1 : len(row) - 1] = True
        wanted = torch.cat([torch.tensor(row[len(row) - n :]) for row, n in rows])
        ids, there, predicts, wanted = (tensor.to(self.device) for tensor in (ids, there, predicts, wanted))
        with torch.inference_mode():
            # The vocabulary's logits are most of the work, so they are made where they count alone.
            logits = self.model(
                input_ids=ids, attention_mask=there, use_cache=False, logits_to_keep=predicts
            ).logits  # [tokens that count, vocabulary]
            nats = torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="none")
        return [own.numpy() for own in torch.split(nats.cpu(), [n for _, n in rows])]


def _batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Places of the rows that are not of length 0, those of like length together."""
    batch: list[int] = []
    for k in sorted((k for k, n in enumerate(lengths) if n), key=lambda k: lengths[k]):
        if batch and (len(batch) + 1) * lengths[k] > tokens:
            yield batch
            batch = []
        batch.append(k)
    if batch:
        yield batch
