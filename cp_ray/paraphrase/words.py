"""The words of a survey question, as two wordings are compared by them."""

from dataclasses import dataclass

from cp_ray.english.words import tagged
from cp_ray.paraphrase.lexicon import EMPTY

__all__ = ["Word", "read_words"]

_CONTENT = ("NN", "NP", "VV", "AJ", "AV0", "CRD", "ORD", "UNC")
# What the tagger takes for another word's form, or leaves as it is.
_LEMMAS = {
    "better": "good", "best": "good", "worse": "bad", "worst": "bad", "should": "should", "would": "would",
    "could": "could", "might": "might", "less": "less", "least": "less", "more": "more", "most": "most",
    "wives": "wife", "lives": "life", "children": "child", "people": "people", "n't": "not", "ca": "can", "wo": "will",
}  # fmt: skip


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
    return [Word(w.text, _LEMMAS.get(w.lower, w.lemma.lower() or w.lower), w.tag, w.start) for w in tagged(sentence)]
