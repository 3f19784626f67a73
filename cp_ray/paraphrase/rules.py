"""What two wordings say differently, found in their words: reversals, quantities, exchanged roles, duties."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cp_ray.paraphrase.lexicon import (
    DUTY,
    DUTY_TOO,
    NEGATABLE,
    NEGATIONS,
    NUMBERS,
    PREFIXES,
    QUANTITIES,
    UNITS,
    WISH,
    are_opposite,
)
from cp_ray.paraphrase.words import Word

__all__ = ["Signs", "compare", "is_passive"]

_COMPARING = frozenset(("than", "before", "after"))
_ASIDES = frozenset(("say", "agree", "describe", "call", "think", "consider", "rate", "judge", "answer", "put"))
"""`Would you say that ...` asks for nothing that would be."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What the words of a text say otherwise than its seed's."""

    negations: tuple[int, int]
    """In the seed and in the text."""
    opposites: int
    """Words of the text whose opposite stands in the seed."""
    exchanged: bool
    """Two words took each other's place."""
    reason: str | None
    """What this comes to, in words; None if it comes to nothing."""

    @property
    def reversals(self) -> int:
        """Two cancel out: `not often` is `rarely`, and `A is better than B` is `B is worse than A`."""
        return abs(self.negations[0] - self.negations[1]) + self.opposites + self.exchanged


def compare(seed: Sequence[Word], text: Sequence[Word]) -> Signs:
    """The signs of another meaning, each text as `read_words` gives it."""
    negations = (_negations(seed) + _negated(seed, text), _negations(text) + _negated(text, seed))
    same_voice = is_passive(seed) == is_passive(text)
    exchanged = _exchanged(seed, text) or (same_voice and (_recast(seed, text) or _swapped(seed, text)))
    found = Signs(negations, _opposites(seed, text), exchanged, None)
    return replace(found, reason="turned round" if found.reversals % 2 else _other_difference(seed, text))


def _other_difference(seed: Sequence[Word], text: Sequence[Word]) -> str | None:
    if _numbers(text) - _numbers(seed) or _units(text) - _units(seed):
        return "another number"
    kinds = _kinds(seed) ^ _kinds(text)
    if any(pair <= kinds for pair in _CONFLICTS) or kinds & _ALONE:
        return "another quantity"
    if _one_sided(seed, text) or _one_sided(text, seed):
        return "what should be for what is"
    if _wishes(seed) != _wishes(text):
        return "what would be for what is"
    return None


_CONFLICTS = (
    {"all", "some"}, {"all", "most"}, {"all", "few"}, {"none", "some"}, {"none", "few"}, {"none", "most"},
    {"most", "some"}, {"most", "few"}, {"both", "either"},
)  # fmt: skip
_ALONE = frozenset(("only", "half", "sometimes"))
"""Kinds that change a sentence wherever they come or go."""


def _negations(words: Sequence[Word]) -> int:
    found = 0
    for k, word in enumerate(words):
        before, after = words[k - 1].lemma if k else "", words[k + 1].lemma if k + 1 < len(words) else ""
        said = word.lemma in NEGATIONS and not _is_idle(word, before, after, words)
        found += said or (word.lemma, after) in (("far", "from"), ("anything", "but"))
    return found


def _negated(words: Sequence[Word], other: Sequence[Word]) -> int:
    """Words that are negations by their form (`unimportant`), where the other side has no opposite of theirs."""
    there = {form for w in other for form in _forms(w)}
    found = 0
    for word in _only_in(words, other):
        base = next((b for prefix in PREFIXES if (b := word.lemma.removeprefix(prefix)) != word.lemma), "")
        found += base in NEGATABLE and not any(are_opposite(word.lemma, form) for form in there)
    return found


def _is_idle(word: Word, before: str, after: str, words: Sequence[Word]) -> bool:
    """Is it a negation in its looks only: `not only`, `no matter`, the second half of `neither nor`?"""
    if word.lemma in ("few", "little"):
        return before != "too"  # counted as opposites of `many` and `much`; `too little` is `not enough`
    return (
        (word.lemma == "not" and after in ("only", "just"))
        or (word.lemma == "no" and after in ("matter", "doubt"))
        or (word.lemma == "nor" and any(w.lemma == "neither" for w in words))
    )


def _opposites(seed: Sequence[Word], text: Sequence[Word]) -> int:
    """Words of the text whose opposite stands in the seed, and each on its side only."""
    gone, new = _only_in(seed, text), _only_in(text, seed)
    found = 0
    for word in new:
        for lost in gone:
            if any(are_opposite(a, b) for a in _forms(lost) for b in _forms(word)):
                gone.remove(lost)
                found += 1
                break
    return found


def _only_in(one: Sequence[Word], other: Sequence[Word]) -> list[Word]:
    left = Counter(w.lemma for w in other)
    found = []
    for k, word in enumerate(one):
        if left[word.lemma] > 0:
            left[word.lemma] -= 1
        elif word.lemma not in NEGATIONS or _is_idle(word, one[k - 1].lemma if k else "", "", one):
            found.append(word)
    return found


def _forms(word: Word) -> set[str]:
    return {word.lemma, word.text.lower()}


def _numbers(words: Sequence[Word]) -> set[str]:
    return {NUMBERS.get(w.lemma, w.text.strip("%")) for w in words if w.text[0].isdigit() or w.lemma in NUMBERS}


def _units(words: Sequence[Word]) -> set[str]:
    """Spans of time; `these days` is none."""
    return {
        UNITS[w.lemma]
        for k, w in enumerate(words)
        if w.lemma in UNITS and not (k and words[k - 1].text.lower() in ("these", "those"))
    }


def _kinds(words: Sequence[Word]) -> set[str]:
    """Kinds of quantity; `the most important`, `more` and `all in all` are none."""
    found = set()
    for k, word in enumerate(words):
        after = words[k + 1] if k + 1 < len(words) else None
        degree = word.lemma == "most" and after is not None and after.tag.startswith(("AJ", "AV"))
        aside = word.lemma == "all" and (
            (after is not None and after.lemma == "in") or (k and words[k - 1].lemma == "in")
        )
        if word.lemma in QUANTITIES and not degree and not aside:
            found.add(QUANTITIES[word.lemma])
    return found


def _one_sided(one: Sequence[Word], other: Sequence[Word]) -> bool:
    """Does the one say what should be, and the other nothing of the kind that is not in the one as well?"""
    had = {w.lemma for w in one}
    return any(w.lemma in DUTY for w in one) and not any(
        w.lemma in DUTY
        or (w.lemma in DUTY_TOO and w.lemma not in had)
        or (w.lemma == "have" and k + 1 < len(other) and other[k + 1].lemma == "to")
        for k, w in enumerate(other)
    )


def _wishes(words: Sequence[Word]) -> bool:
    return any(
        word.lemma in WISH
        and not (k + 2 < len(words) and words[k + 1].lemma == "you" and words[k + 2].lemma in _ASIDES)
        for k, word in enumerate(words)
    )


def _exchanged(seed: Sequence[Word], text: Sequence[Word]) -> bool:
    """Do two words stand each where the other stood: on the two sides of the same verb or comparison?"""
    places = dict(_frames(seed))
    for hinge, (left, right) in _frames(text):
        lefts, rights = places.get(hinge, (frozenset(), frozenset()))
        if any(a != b for a in (left & rights) - (left & lefts) for b in (right & lefts) - (right & rights)):
            return True
    return False


def _frames(words: Sequence[Word]) -> Iterator[tuple[str, tuple[frozenset[str], frozenset[str]]]]:
    """Each verb and comparison of a sentence with what stands left and right of it, up to a comma."""
    for k, word in enumerate(words):
        comparing = word.lemma in _COMPARING or (word.lemma == "to" and any(w.lemma == "prefer" for w in words[:k]))
        auxiliary = word.tag.startswith("VH") and any(w.tag in ("VVN", "VVD", "VBN") for w in words[k + 1 : k + 3])
        if auxiliary or not (comparing or word.tag.startswith(("VV", "VH"))):
            continue
        left, right = _side(words[:k][::-1], comparing), _side(_object(words[k + 1 :], comparing), comparing)
        if _is_passive_verb(words, k):
            left, right = _side(words[k + 1 :], comparing), left
        elif word.tag == "VVN":  # by whom is not said
            left, right = frozenset(), left
        yield word.lemma, (left, right)


def _object(after: Sequence[Word], comparing: bool) -> Sequence[Word]:
    """What follows a verb, up to a preposition or another clause; `listen to` is a verb."""
    if comparing:
        return after
    ends = (k for k, w in enumerate(after) if w.tag in ("PRP", "TO0", "CJS", "CJT") and k > 0)
    return after[: next(ends, len(after))]


def _is_passive_verb(words: Sequence[Word], k: int) -> bool:
    """Is the word a verb in the passive, with the one who does it named?"""
    if words[k].tag not in ("VVN", "VVD"):
        return False
    be = any(w.lemma == "be" for w in words[max(0, k - 3) : k])
    return any(w.lemma == "by" for w in words[k + 1 : k + (9 if be else 4)])


def is_passive(words: Sequence[Word]) -> bool:
    """Is a verb of it in the passive, with the one who does it named?"""
    return any(_is_passive_verb(words, k) for k in range(len(words)))


def _side(words: Sequence[Word], comparing: bool) -> frozenset[str]:
    found = []
    for k, word in enumerate(words):
        if word.text in ",;:" or k == (12 if comparing else 7):
            break
        if word.tag.startswith(("NN", "NP", "AJ", "VV", "PNP") if comparing else ("NN", "NP", "AJ", "PNP")):
            found.append(word.lemma)
    return frozenset(found)


def _recast(seed: Sequence[Word], text: Sequence[Word]) -> bool:
    """Does one word stand where another of the same sentence stood, all else the same?

    `When a and b conflict, a is right` and `When a and b conflict, b is right`.
    """
    one, other = Counter(w.lemma for w in seed if w.is_content), Counter(w.lemma for w in text if w.is_content)
    return one != other and set(one) == set(other) and one.total() == other.total()


def _swapped(seed: Sequence[Word], text: Sequence[Word]) -> bool:
    """Are two words of a sentence exchanged, each on its side of a verb or comparison, and all else in its order?"""
    one, other = [w for w in seed if w.is_content], [w for w in text if w.is_content]
    places = [k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a.lemma != b.lemma]
    if len(one) != len(other) or len(places) != 2:
        return False
    i, j = places
    crossed = one[i].lemma == other[j].lemma and one[j].lemma == other[i].lemma
    alike = one[i].tag[:2] == one[j].tag[:2]
    return crossed and alike and _hinge(seed, one[i], one[j]) and _hinge(text, other[i], other[j])


def _hinge(words: Sequence[Word], first: Word, last: Word) -> bool:
    return any(first.start < w.start < last.start and (w.tag.startswith("V") or w.lemma in _COMPARING) for w in words)
