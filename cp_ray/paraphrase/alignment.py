"""Which words of two wordings stand for each other, by their vectors in context."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cp_ray.paraphrase.lexicon import NEGATIONS, QUANTITIES
from cp_ray.paraphrase.words import Word, read_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Alignment", "Reading", "align", "read"]

_STEM = 5
"""Letters; words that begin alike (`elect`, `election`) count as the same."""


@dataclass(frozen=True)
class Reading:
    """A text as it is compared."""

    words: list[Word]
    sentence: "NDArray[np.float32]"
    """[d], of unit length."""
    vectors: "NDArray[np.float32]"
    """[words, d], each word's in its context, of unit length."""

    @property
    def weighty(self) -> list[int]:
        """Places of the words that carry meaning; negations and quantities are the rules' business."""
        return [
            k
            for k, word in enumerate(self.words)
            if word.is_content and word.lemma not in QUANTITIES and word.lemma not in NEGATIONS
        ]


@dataclass(frozen=True, slots=True)
class Alignment:
    """The words of weight that are not the same on both sides."""

    pairs: tuple[float, ...]
    """Cosines of those that stand for each other, one for one."""
    lost: tuple[float, ...]
    """Of the seed's that nothing stands for: the cosine of the nearest word of all."""
    added: tuple[float, ...]
    """The same for the text's."""
    words: int
    """Of weight in the text."""


def read(texts: Sequence[str], model: Any) -> dict[str, Reading]:
    """Each text with its vectors, by a sentence-transformers model."""
    encoded: Any = model.encode(list(texts), output_value=None, show_progress_bar=False)
    return {text: _reading(text, one, model.tokenizer) for text, one in zip(texts, encoded, strict=True)}


def align(seed: Reading, text: Reading) -> Alignment:
    """Pair what is left when equal words are taken away, so that the cosines' sum is greatest."""
    from scipy.optimize import linear_sum_assignment

    one, other = _unlike(seed, text), _unlike(text, seed)
    cosines = seed.vectors[one] @ text.vectors[other].T
    rows, columns = linear_sum_assignment(-cosines)
    return Alignment(
        pairs=tuple(float(c) for c in cosines[rows, columns]),
        lost=_nearest(seed, sorted(set(range(len(one))) - set(rows)), one, text),
        added=_nearest(text, sorted(set(range(len(other))) - set(columns)), other, seed),
        words=len(text.weighty),
    )


def _reading(text: str, encoded: Any, tokenizer: Any) -> Reading:
    sentence, tokens = _unit(encoded["sentence_embedding"]), _array(encoded["token_embeddings"])
    offsets = tokenizer(text, return_offsets_mapping=True, truncation=True)["offset_mapping"]
    words = read_words(text)
    vectors = [_within(word, tokens, offsets, sentence) for word in words]
    return Reading(words, sentence, np.array(vectors, dtype=np.float32).reshape(len(words), len(sentence)))


def _within(word: Word, tokens: Any, offsets: Any, sentence: Any) -> "NDArray[np.float32]":
    """The mean of the word's tokens; the sentence's vector for a word beyond the embedder's length."""
    own = [token for token, (a, b) in zip(tokens, offsets, strict=False) if a < word.end and b > word.start]
    return _unit(np.mean(own, axis=0)) if own else np.asarray(sentence)


def _array(tensor: Any) -> "NDArray[np.float32]":
    return np.asarray(tensor.float().cpu() if hasattr(tensor, "cpu") else tensor, dtype=np.float32)


def _unit(vector: Any) -> "NDArray[np.float32]":
    array = _array(vector)
    return array / max(float(np.linalg.norm(array)), 1e-9)


def _unlike(one: Reading, other: Reading) -> list[int]:
    left = Counter(word.lemma[:_STEM] for word in other.words)
    found = []
    for k in one.weighty:
        stem = one.words[k].lemma[:_STEM]
        if left[stem] > 0:
            left[stem] -= 1
        else:
            found.append(k)
    return found


def _nearest(one: Reading, unpaired: Sequence[int], places: Sequence[int], other: Reading) -> tuple[float, ...]:
    to = [k for k, word in enumerate(other.words) if word.text[0].isalnum()]
    if not to:
        return tuple(0.0 for _ in unpaired)
    return tuple(float((one.vectors[places[k]] @ other.vectors[to].T).max()) for k in unpaired)
