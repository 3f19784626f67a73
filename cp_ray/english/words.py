"""A text as words with parts of speech and lemmas: sentencex for sentences, HanTa for tags, both offline."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["FINITE", "OpenQuotation", "Word", "can_be_verb", "content", "tagged", "words"]

FINITE = frozenset(["VVB", "VVZ", "VVD", "VBB", "VBZ", "VBD", "VHB", "VHZ", "VHD", "VDB", "VDZ", "VDD", "VM0"])
"""Tags of verbs with a tense; those of the British National Corpus (C5)."""

# As the corpus has it: "do" + "n't", "they" + "'re".
_WORD = re.compile(r"\w+?(?=n[’']t\b)|n[’']t\b|[’'](?:s|re|ve|ll|d|m)\b|\w+(?:-\w+)*|[^\w\s]", re.IGNORECASE)
_GUESSED = -25.0
"""HanTa gives words that it has not learnt a log-likelihood below that."""
_LONGEST = 40
"""Letters of a word that the tagger sees."""
_PAIRS = {"“": "”", "«": "»", "„": "“", "‘": "’"}


class OpenQuotation(ValueError):
    """A quotation does not end."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word or a sign, where it stands in its text."""

    text: str
    start: int
    end: int
    tag: str
    """BNC C5: `NN2` is a plural noun, `PNP` a personal pronoun."""
    lemma: str
    sentence: int
    quoted: bool

    @property
    def lower(self) -> str:
        """In small letters, with straight apostrophes."""
        return self.text.lower().replace("’", "'")


def words(text: str) -> list[Word]:
    """All words of a text in order.

    Raises:
        OpenQuotation: one is opened and not closed, so what is quoted is not known.
    """
    return tagged(text, _quoted(text))


def content(text: str) -> frozenset[str]:
    """Lemmas of a text's nouns, names, adjectives and full verbs, whoever says them."""
    return frozenset(w.lemma.lower() for w in tagged(text) if w.tag.startswith(("NN", "NP", "AJ", "VV")))


def tagged(text: str, quoted: Sequence[tuple[int, int]] = ()) -> list[Word]:
    """All words of a text in order; those within the spans `quoted` are marked."""
    import sentencex

    found: list[Word] = []
    at = 0
    for number, sentence in enumerate(sentencex.segment("en", text)):
        begin = max(text.find(sentence, at), at)
        at = begin + len(sentence)
        spans = [m.span() for m in _WORD.finditer(text, begin, at)]
        tagged = _tagger().tag_sent([_known(text[a:b]) for a, b in spans]) if spans else []
        for (a, b), (_, lemma, tag) in zip(spans, tagged, strict=True):
            inside = any(first <= a < last for first, last in quoted)
            found.append(Word(text[a:b], a, b, tag, lemma, number, inside))
    return found


def _known(word: str) -> str:
    """As the tagger is given it. Its time grows with the square of a word's length, and no word is that long."""
    return word[:_LONGEST].replace("’", "'")


def can_be_verb(word: str) -> bool:
    """Does HanTa know the word, in small letters, as a verb's plain form, whatever it takes it for in a sentence?"""
    return any(tag == "VVB" and score > _GUESSED for tag, score in _tagger().tag_word(word))


@functools.cache
def _tagger() -> Any:
    """Read once in a process; it takes a quarter of a second."""
    from HanTa import HanoverTagger

    return HanoverTagger.HanoverTagger("morphmodel_en.pgz")


def _quoted(text: str) -> list[tuple[int, int]]:
    """Where something is quoted, the quotation marks included."""
    found, opened, closing = [], 0, ""
    for at, sign in enumerate(text):
        before, after = text[at - 1 : at], text[at + 1 : at + 2]
        if closing:
            if sign == closing and not (sign in "'’" and after.isalnum()):
                found.append((opened, at + 1))
                closing = ""
        elif sign == '"' or sign in _PAIRS or (sign == "'" and not before.isalnum() and _closes(text, at)):
            opened, closing = at, _PAIRS.get(sign, sign)
    if closing:
        raise OpenQuotation("a quotation does not end")
    return found


def _closes(text: str, at: int) -> bool:
    """Is the apostrophe at `at` a quotation mark: does one that ends a word follow?"""
    return re.search(r"\S'(?!\w)", text[at + 1 :]) is not None
