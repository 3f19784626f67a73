"""Quality of training texts, a row each: length, similarity to the seed's question, perplexity; thresholds reject.

Perplexity is that of a causal language model that has nothing to do with the run: exp of the mean negative
log-likelihood of the text's tokens, after the model's token for the beginning of a text and nothing else. It is low
where the text reads like English that the model has seen. (CulturePark's code takes a bigram model of the sentence
itself, smoothed, and asks it for the same sentence: that says how much a sentence repeats itself.)
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cp_ray.embedding import Embedder
from cp_ray.errors import ConfigError
from cp_ray.records import Opinion, Quality, from_table, to_table

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from ray.data import Dataset

__all__ = ["Measured", "Perplexity", "QualityConfig", "judged", "measure", "similarities", "texts_of"]

_TOKENS = 2048
"""In a batch, padding included: the vocabulary's logits of so many are a few hundred MB."""

Encode = Callable[[Sequence[str]], "NDArray[np.float32]"]


@dataclass(frozen=True)
class QualityConfig:
    """What is measured with, and what is rejected. None: no threshold."""

    model: str = "smollm2"
    """Whose perplexity: `smollm2`, a folder, or a Hugging Face id of a causal language model, base or chat."""
    embedder: str = "minilm"
    """`minilm`: the embedded all-MiniLM-L6-v2; otherwise a name or folder for sentence-transformers."""
    max_perplexity: float | None = None
    min_similarity: float | None = None
    """Cosine to the seed's question, from -1 to 1."""
    min_words: int | None = None
    max_words: int | None = None

    def __post_init__(self) -> None:
        if self.max_perplexity is not None and not self.max_perplexity >= 1:
            raise ConfigError(f"max_perplexity: must be at least 1, which is certainty, got {self.max_perplexity}")
        if self.min_similarity is not None and not -1 <= self.min_similarity <= 1:
            raise ConfigError(f"min_similarity: must be between -1 and 1, got {self.min_similarity}")
        for name in ("min_words", "max_words"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name}: must be at least 1, got {value}")
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            raise ConfigError(f"min_words: must not be above max_words, got {self.min_words} above {self.max_words}")


@dataclass(frozen=True, slots=True)
class Measured:
    """A text that is to be measured."""

    id: str
    culture: str
    seed_id: str
    kind: str
    """`opinion` or `paraphrase`."""
    text: str
    question: str
    """Of its seed; what it is similar to, or should be."""
    margin: float | None = None
    """By how much its relation to the survey was the likeliest, where that is known."""


def texts_of(opinions: Iterable[Opinion]) -> list[Measured]:
    """The opinions that count."""
    return [
        Measured(o.id, o.culture, o.seed_id, "opinion", o.text, o.question, getattr(o, "margin", None))
        for o in opinions
        if o.reject is None
    ]


def measure(texts: "Dataset", config: QualityConfig, *, workers: int = 1) -> "Dataset":
    """Rows of `Quality` for rows of `Measured`, on Ray."""
    import ray.data

    return texts.map_batches(
        _Measure,
        fn_constructor_args=(config,),
        batch_format="pyarrow",
        batch_size=1024,  # sorted by length within
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
    )


def judged(texts: Sequence[Measured], perplexity: "Perplexity", encode: Encode, config: QualityConfig) -> list[Quality]:
    """The texts with their figures; those beyond a threshold are rejected."""
    near = similarities(texts, encode)
    told = perplexity([text.text for text in texts])
    rows = []
    for text, similarity, surprise in zip(texts, near, told, strict=True):
        words = len(text.text.split())
        rows.append(
            Quality(
                text.id, text.culture, text.seed_id, text.kind, text.text, words, similarity, text.margin, surprise,
                _reject(words, similarity, surprise, config),
            )
        )  # fmt: skip
    return rows


def similarities(texts: Sequence[Measured], encode: Encode) -> list[float]:
    """Cosine of each text to its question. `encode` gives vectors [n, d] of unit length."""
    questions = list(dict.fromkeys(text.question for text in texts))
    if not texts:
        return []
    vectors = encode([*questions, *(text.text for text in texts)])
    of = [questions.index(text.question) for text in texts]
    found: list[float] = (vectors[of] * vectors[len(questions) :]).sum(axis=1).astype(float).tolist()
    return found


class Perplexity:
    """A causal language model that tells how likely texts are."""

    def __init__(self, name: str = "smollm2", device: str | None = None) -> None:
        """Load it, on a GPU where there is one.

        Raises:
            BaseModelError: it cannot be loaded, or it has no token to begin a text with.
        """
        import torch

        from cp_ray.errors import BaseModelError
        from cp_ray.llm.embedded import load_base

        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.tokenizer = load_base(name, device=self.device, chat=False)
        ids = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        first = next((id for id in ids if id is not None), None)
        if first is None:
            raise BaseModelError(f"base model: {name!r} has neither a first nor a last token; choose another")
        self.first: int = first
        self.longest = int(getattr(self.model.config, "max_position_embeddings", None) or 2048)

    def __call__(self, texts: Sequence[str], tokens: int = _TOKENS) -> list[float | None]:
        """Perplexity of each text; None where there is no text.

        Texts of like length share a batch of at most so many `tokens`. What is beyond the model's context is not read.
        """
        ids = [self.ids(text) for text in texts]
        found: list[float | None] = [None] * len(texts)
        for batch in _batches([len(row) for row in ids], tokens):
            for k, nats in zip(batch, self._nats([ids[k] for k in batch]), strict=True):
                found[k] = math.exp(min(nats, 700.0))  # beyond that a float ends
        return found

    def ids(self, text: str) -> list[int]:
        """A text's tokens after the first one, without special tokens around them."""
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return [self.first, *tokens][: self.longest]

    def _nats(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Mean negative log-likelihood of each row's tokens but the first."""
        import torch

        longest = max(map(len, rows))
        # Padded on the right: a causal model's earlier places do not see it, and its own places are not counted.
        ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
        there = torch.zeros(len(rows), longest, dtype=torch.long)
        for k, row in enumerate(rows):
            ids[k, : len(row)], there[k, : len(row)] = torch.tensor(row), 1
        ids, there = ids.to(self.device), there.to(self.device)
        with torch.inference_mode():
            logits = self.model(input_ids=ids, attention_mask=there, use_cache=False).logits[:, :-1]
            at = there[:, 1:].bool()
            nats = torch.nn.functional.cross_entropy(logits[at].float(), ids[:, 1:][at], reduction="none")
            row_of = at.nonzero()[:, 0]
            total = torch.zeros(len(rows), device=nats.device).index_add(0, row_of, nats)
            means: list[float] = (total / at.sum(dim=1)).tolist()
        return means


def _batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Places of the rows that have a token to predict, those of like length together."""
    batch: list[int] = []
    for k in sorted((k for k, n in enumerate(lengths) if n > 1), key=lambda k: lengths[k]):
        if batch and (len(batch) + 1) * lengths[k] > tokens:
            yield batch
            batch = []
        batch.append(k)
    if batch:
        yield batch


def _reject(words: int, similarity: float, perplexity: float | None, config: QualityConfig) -> str | None:
    """The first threshold that is not kept."""
    if config.min_words is not None and words < config.min_words:
        return "too few words"
    if config.max_words is not None and words > config.max_words:
        return "too many words"
    if config.min_similarity is not None and similarity < config.min_similarity:
        return "not similar to the question"
    if config.max_perplexity is not None and (perplexity is None or perplexity > config.max_perplexity):
        return "perplexity too high"
    return None


class _Measure:
    """In a Ray Data actor: both models."""

    def __init__(self, config: QualityConfig) -> None:
        self.config, self.perplexity = config, Perplexity(config.model)
        self.encode: Encode = Embedder(config.embedder).encode

    def __call__(self, table: "pa.Table") -> "pa.Table":
        texts = from_table(table, Measured)
        return to_table(judged(texts, self.perplexity, self.encode, self.config), Quality)
