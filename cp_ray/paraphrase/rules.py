"""What two wordings say differently, found in their words: reversals, quantities, exchanged roles, duties."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cp_ray.paraphrase.lexicon import DUTY, NEGATIONS, NUMBERS, QUANTITIES, are_opposite
from cp_ray.paraphrase.words import Word

__all__ = ["Differences", "differences"]

_COMPARING = frozenset(("than", "over", "before", "above", "below", "under"))


@dataclass(frozen=True, slots=True)
class Differences:
    """Of a text from its seed."""

    reversals: int
    """Negations on one side only, words whose opposite stands on the other side, comparisons turned round. Two of them
    cancel out: `not often` is `rarely`, and `A is better than B` is `B is worse than A`."""
    numbers: bool
    """A number stands on one side only."""
    quantities: tuple[str, ...]
    """Kinds of quantity, such as `all`, on one side only."""
    duty: bool
    """One side says what should be, the other what is."""
    exchanged: tuple[str, str] | None
    """Two words that took each other's place."""


def differences(seed: Sequence[Word], text: Sequence[Word]) -> Differences:
    """Compare two wordings, each as `read_words` gives it."""
    exchanged = _exchanged(seed, text)
    reversals = abs(_negations(seed) - _negations(text)) + _opposites(seed, text) + (exchanged is not None)
    kinds = _kinds(seed) ^ _kinds(text)
    return Differences(
        reversals, _numbers(seed) != _numbers(text), tuple(sorted(kinds)), _duty(seed) != _duty(text), exchanged
    )


def _negations(words: Sequence[Word]) -> int:
    found = 0
    for k, word in enumerate(words):
        if word.lemma not in NEGATIONS:
            continue
        before, after = words[k - 1].lemma if k else "", words[k + 1].lemma if k + 1 < len(words) else ""
        if word.lemma in ("few", "little") and (before == "a" or word.text.lower() not in ("few", "little")):
            continue  # `a few`, `fewer`
        if word.lemma == "not" and after in ("only", "just"):
            continue
        if word.lemma == "no" and after in ("matter", "doubt"):
            continue
        if word.lemma == "nor" and any(w.lemma == "neither" for w in words):
            continue
        found += 1
    return found


def _opposites(seed: Sequence[Word], text: Sequence[Word]) -> int:
    """Words of the text whose opposite stands in the seed in their place."""
    one, other = Counter(w.lemma for w in seed), Counter(w.lemma for w in text)
    gone, new = one - other, other - one
    found = 0
    for lemma in new:
        if lemma in NEGATIONS:
            continue
        for lost in gone:
            if lost not in NEGATIONS and gone[lost] > 0 and are_opposite(lost, lemma):
                found, gone[lost] = found + 1, gone[lost] - 1
                break
    return found


def _numbers(words: Sequence[Word]) -> set[str]:
    return {NUMBERS.get(w.lemma, w.text.strip("%")) for w in words if w.text[0].isdigit() or w.tag in ("CRD", "ORD")}


def _kinds(words: Sequence[Word]) -> set[str]:
    """Kinds of quantity; `the most important` and `more` are degrees and none."""
    found = set()
    for k, word in enumerate(words):
        after = words[k + 1] if k + 1 < len(words) else None
        if word.lemma == "most" and after is not None and after.tag.startswith(("AJ", "AV")):
            continue
        if word.lemma in QUANTITIES and word.lemma != "lot":
            found.add(QUANTITIES[word.lemma])
    return found


def _duty(words: Sequence[Word]) -> bool:
    return any(w.lemma in DUTY and not (w.lemma == "right" and w.tag.startswith(("AJ", "AV"))) for w in words)


def _exchanged(seed: Sequence[Word], text: Sequence[Word]) -> tuple[str, str] | None:
    """Two words of which each stands where the other stood: on the two sides of the same verb or comparison."""
    places = dict(_frames(seed))
    for hinge, (left, right) in _frames(text):
        if hinge in places:
            lefts, rights = places[hinge]
            for a in left & rights:
                for b in right & lefts:
                    if a != b:
                        return a, b
    return None


def _frames(words: Sequence[Word]) -> Iterator[tuple[str, tuple[frozenset[str], frozenset[str]]]]:
    """Each verb and comparison of a sentence with the nouns just left and right of it."""
    for k, word in enumerate(words):
        passive = word.tag in ("VVN", "VVD") and any(w.lemma == "by" for w in words[k : k + 4])
        if word.lemma in _COMPARING or word.tag.startswith("VV"):
            left = frozenset(w.lemma for w in words[max(0, k - 8) : k] if _is_party(w))
            right = frozenset(w.lemma for w in words[k + 1 : k + 7] if _is_party(w))
            yield ("than" if word.lemma in _COMPARING else word.lemma), (right, left) if passive else (left, right)


def _is_party(word: Word) -> bool:
    return word.tag.startswith(("NN", "NP"))
