"""The words of an English sentence, with their base forms and parts of speech."""

import functools
import re
from dataclasses import dataclass
from typing import Any

from cp_ray.paraphrase.lexicon import EMPTY

__all__ = ["Word", "read_words"]

# Numbers; the parts of a contraction (is|n't, can|'t); words, hyphens inside; signs.
_TOKEN = re.compile(
    r"\d+(?:[.,]\d+)*%?|[^\W\d_]+(?=n['’]t\b)|n['’]t\b|['’](?:s|re|ve|ll|d|m)?\b|[^\W\d_]+(?:-[^\W\d_]+)*|[^\w\s]",
    re.IGNORECASE,
)
_WHOLE = {
    "n't": "not",
    "ca": "can",
    "wo": "will",
    "sha": "shall",
    "'re": "are",
    "'ve": "have",
    "'ll": "will",
    "'m": "am",
}

_CONTENT = ("NN", "NP", "VV", "AJ", "AV0", "CRD", "ORD", "UNC")


@dataclass(frozen=True, slots=True)
class Word:
    """One token of a sentence."""

    text: str
    lemma: str
    """In lower case."""
    tag: str
    """Of the British National Corpus' C5 set, such as `NN2`."""
    start: int
    """Where it begins in the sentence, in characters."""

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.start + len(self.text)

    @property
    def is_content(self) -> bool:
        """Does it carry meaning of its own?"""
        return self.tag.startswith(_CONTENT) and self.lemma not in EMPTY and self.text[0].isalnum()


def read_words(sentence: str) -> list[Word]:
    """The words and signs of a sentence, in their order; `isn't` is two, `is` and `n't` (lemma `not`)."""
    found = [(m.group(), m.start()) for m in _TOKEN.finditer(sentence)]
    whole = [_WHOLE.get(text.lower().replace("’", "'"), text) for text, _ in found]
    tagged: list[tuple[str, str, str]] = _tagger().tag_sent(whole) if found else []
    return [
        Word(text, _lemma(said, lemma), tag, start)
        for (text, start), said, (_, lemma, tag) in zip(found, whole, tagged, strict=True)
    ]


def _lemma(text: str, lemma: str) -> str:
    lemma = lemma.lower() or text.lower()
    return _IRREGULAR.get(text.lower(), lemma)


# What the tagger takes for another word's form.
_IRREGULAR = {"better": "good", "best": "good", "worse": "bad", "worst": "bad", "should": "should", "would": "would",
              "could": "could", "might": "might", "less": "less", "least": "less", "more": "more", "most": "most",
              "wives": "wife", "lives": "life", "children": "child", "people": "people"}  # fmt: skip


@functools.cache
def _tagger() -> Any:
    from HanTa.HanoverTagger import HanoverTagger

    return HanoverTagger("morphmodel_en.pgz")
