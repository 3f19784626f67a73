"""Quality of training texts, a row each: length, language, similarity, relation margin, perplexity; thresholds reject.

Perplexity is that of a causal language model that has nothing to do with the run: exp of the mean negative
log-likelihood of the text's tokens, after the model's token for the beginning of a text and nothing else. It is low
where the text reads like English that the model has seen. (CulturePark's code takes a bigram model of the sentence
itself, smoothed, and asks it for the same sentence: that says how much a sentence repeats itself.)
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cp_ray.arrow import from_table, to_table
from cp_ray.cultures import CULTURES
from cp_ray.devices import model_actors
from cp_ray.embedding import Embedder
from cp_ray.errors import ConfigError
from cp_ray.language import Languages, codes_of
from cp_ray.likelihood import Likelihood
from cp_ray.records import Opinion, Quality

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from ray.data import Dataset

__all__ = ["Measured", "QualityConfig", "judged", "measure", "perplexity", "similarities", "texts_of"]

_BATCH = 128
"""Texts at once, sorted by length within; larger ones would leave a few hundred texts to one worker."""

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
    min_english: float | None = None
    """Probability that the text is in English; 0: that is its likeliest language."""
    min_margin: float | None = None
    """Of the relation to the survey, from -1 to 1; a text whose margin is not known is rejected as well."""
    languages: tuple[str, ...] = codes_of(CULTURES.values())
    """ISO 639 codes of those that are told apart."""

    def __post_init__(self) -> None:
        if self.max_perplexity is not None and not self.max_perplexity >= 1:
            raise ConfigError(f"max_perplexity: must be at least 1, which is certainty, got {self.max_perplexity}")
        if self.min_similarity is not None and not -1 <= self.min_similarity <= 1:
            raise ConfigError(f"min_similarity: must be between -1 and 1, got {self.min_similarity}")
        if self.min_margin is not None and not -1 <= self.min_margin <= 1:
            raise ConfigError(f"min_margin: must be between -1 and 1, got {self.min_margin}")
        if self.min_english is not None and not 0 <= self.min_english <= 1:
            raise ConfigError(f"min_english: must be between 0 and 1, got {self.min_english}")
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
    """By how much its relation to the survey was the likeliest: `Opinion.margin`."""
    no_margin: str | None = None
    """Why that is not known."""


def texts_of(opinions: Iterable[Opinion]) -> list[Measured]:
    """The opinions that count."""
    return [
        Measured(o.id, o.culture, o.seed_id, "opinion", o.text, o.question, o.margin, o.no_margin)
        for o in opinions
        if o.reject is None
    ]


def measure(texts: "Dataset", config: QualityConfig, *, workers: int = 1) -> "Dataset":
    """Rows of `Quality` for rows of `Measured`, on Ray."""
    return texts.map_batches(
        _Measure,
        fn_constructor_args=(config,),
        batch_format="pyarrow",
        batch_size=_BATCH,
        **model_actors(workers),
    )


def judged(
    texts: Sequence[Measured], likelihood: Likelihood, encode: Encode, languages: Languages, config: QualityConfig
) -> list[Quality]:
    """The texts with their figures; those beyond a threshold are rejected."""
    near = similarities(texts, encode)
    told = [perplexity(nats) for nats in likelihood([text.text for text in texts])]
    rows = []
    for text, similarity, surprise in zip(texts, near, told, strict=True):
        row = Quality(
            text.id, text.culture, text.seed_id, text.kind, text.text, len(text.text.split()), similarity, text.margin,
            text.no_margin, surprise, *languages(text.text),
        )  # fmt: skip
        rows.append(replace(row, reject=_reject(row, config)))
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


def perplexity(nats: "NDArray[np.float32]") -> float | None:
    """Of a text whose tokens have these negative log-likelihoods; None where there is none."""
    return math.exp(min(float(nats.mean()), 700.0)) if len(nats) else None  # beyond that a float ends


def _reject(row: Quality, config: QualityConfig) -> str | None:
    """The first threshold that is not kept."""
    if config.min_words is not None and row.words < config.min_words:
        return "too few words"
    if config.max_words is not None and row.words > config.max_words:
        return "too many words"
    if config.min_english is not None and (row.language != "en" or row.language_probability < config.min_english):
        return "not in English"
    if config.min_similarity is not None and row.similarity < config.min_similarity:
        return "not similar to the question"
    if config.min_margin is not None and (row.margin is None or row.margin < config.min_margin):
        return "relation not sure enough" if row.margin is not None else "relation margin not known"
    if config.max_perplexity is not None and (row.perplexity is None or row.perplexity > config.max_perplexity):
        return "perplexity too high"
    return None


class _Measure:
    """In a Ray Data actor: the models."""

    def __init__(self, config: QualityConfig) -> None:
        self.config, self.likelihood = config, Likelihood(config.model)
        self.encode: Encode = Embedder(config.embedder).encode
        self.languages = Languages(config.languages)

    def __call__(self, table: "pa.Table") -> "pa.Table":
        texts = from_table(table, Measured)
        return to_table(judged(texts, self.likelihood, self.encode, self.languages, self.config), Quality)
