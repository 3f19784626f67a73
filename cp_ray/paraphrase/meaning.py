"""Does a text ask the same as the question it was made from?

Sentence similarity alone does not tell: a negated sentence is as near to its seed as a paraphrase is. So a text passes
when its sentence vector is near, every word of weight in either has a counterpart in the other (their vectors in
context are compared), and the words show no reversal, other number, other quantity or exchanged roles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cp_ray.errors import ConfigError
from cp_ray.paraphrase.rules import differences
from cp_ray.paraphrase.words import Word, read_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Judgement", "Meaning", "MeaningConfig"]


@dataclass(frozen=True)
class MeaningConfig:
    """How near a text must be."""

    tau: float = 0.8
    """Least cosine of the two sentence vectors."""
    word: float = 0.5
    """Least cosine of a word of weight and its nearest counterpart."""
    embedder: str = "minilm"
    """`minilm`: the embedded all-MiniLM-L6-v2; otherwise a name or folder for sentence-transformers."""

    def __post_init__(self) -> None:
        for name in ("tau", "word"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: must be between 0 and 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of one text."""

    similarity: float
    """Cosine of the two sentence vectors."""
    reject: str | None
    """Why it does not ask the same; None if it does."""


class Meaning:
    """Judges texts. Loads the sentence embedder once."""

    def __init__(self, config: MeaningConfig) -> None:
        from cp_ray.embedding import Embedder

        self.config, self._model = config, Embedder(config.embedder).model

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """Each pair of a seed and a text made from it."""
        read = self._read(sorted({text for pair in pairs for text in pair}, key=lambda text: (len(text), text)))
        return [_judgement(read[seed], read[text], self.config) for seed, text in pairs]

    def _read(self, texts: Sequence[str]) -> "dict[str, Reading]":
        encoded: Any = self._model.encode(list(texts), output_value=None, show_progress_bar=False)
        return {text: self._reading(text, one) for text, one in zip(texts, encoded, strict=True)}

    def _reading(self, text: str, encoded: Any) -> "Reading":
        sentence, tokens = _unit(encoded["sentence_embedding"]), encoded["token_embeddings"].float().cpu().numpy()
        offsets = self._model.tokenizer(text, return_offsets_mapping=True, truncation=True)["offset_mapping"]
        words = read_words(text)
        vectors = [
            _unit(
                np.mean(
                    [t for t, (a, b) in zip(tokens, offsets, strict=False) if a < w.end and b > w.start] or [sentence],
                    axis=0,
                )
            )
            for w in words
        ]
        return Reading(words, sentence, np.array(vectors, dtype=np.float32).reshape(len(words), len(sentence)))


@dataclass(frozen=True)
class Reading:
    """A text as it is compared."""

    words: list[Word]
    sentence: "NDArray[np.float32]"
    """[d], of unit length."""
    vectors: "NDArray[np.float32]"
    """[words, d], each word's in its context, of unit length."""


def _unit(vector: Any) -> "NDArray[np.float32]":
    array = np.asarray(vector.float().cpu() if hasattr(vector, "cpu") else vector, dtype=np.float32)
    return array / max(float(np.linalg.norm(array)), 1e-9)


def nearest(one: Reading, other: Reading) -> "NDArray[np.float32]":
    """For each word of weight in `one`, the cosine of its nearest counterpart in `other`; 1 for the same word."""
    from_ = [k for k, word in enumerate(one.words) if word.is_content]
    to = [k for k, word in enumerate(other.words) if word.text[0].isalnum()]
    if not from_ or not to:
        return np.zeros(len(from_), dtype=np.float32)
    cosines: NDArray[np.float32] = (one.vectors[from_] @ other.vectors[to].T).max(axis=1)
    lemmas = {word.lemma for word in other.words}
    same = np.array([one.words[k].lemma in lemmas for k in from_])
    return np.where(same, 1.0, cosines).astype(np.float32)


def _judgement(seed: Reading, text: Reading, config: MeaningConfig) -> Judgement:
    similarity = float(seed.sentence @ text.sentence)
    return Judgement(round(similarity, 4), _reject(seed, text, similarity, config))


def _reject(seed: Reading, text: Reading, similarity: float, config: MeaningConfig) -> str | None:
    found = differences(seed.words, text.words)
    if similarity < config.tau:
        return "too far from the question"
    if found.reversals % 2:
        return "turned round"
    if found.numbers or found.quantities:
        return "another number or quantity"
    if min(nearest(seed, text), default=1.0) < config.word:
        return "a word of the question is missing"
    if min(nearest(text, seed), default=1.0) < config.word:
        return "says more than the question"
    return None
