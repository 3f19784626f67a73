"""Who does what to whom in two wordings, as far as it shows in what stands around their verbs.

A verb's nearest noun on its left is mostly who does it, that on its right whom it is done to; in the passive it is the
other way round. None of it is right or wrong by itself; the trees in `meaning` learn what goes together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cp_ray.paraphrase.words import Word

__all__ = ["PERSONS", "ROLES", "roles"]

ROLES = ("agents", "patients", "crossed", "changed_sides", "exchanged_sides", "commas", "shared_verbs", "relatives")
"""Names of what `roles` gives."""

PERSONS = {
    form: person
    for person, forms in {
        "i": "i me my mine myself", "we": "we us our ours", "you": "you your yours", "they": "they them their theirs",
        "he": "he him his", "she": "she her hers",
    }.items()
    for form in forms.split()
}  # fmt: skip
"""Whom a pronoun stands for."""

_OWNERS = frozenset(["my", "mine", "our", "ours", "your", "yours", "their", "theirs", "his", "her", "hers"])
_ANYONE = frozenset(["people", "everyone", "everybody", "nobody", "somebody", "someone", "anyone"])
_SAYING = frozenset(("do", "think", "agree", "say"))
_STEM = 5


@dataclass(frozen=True, slots=True)
class _Around:
    """What stands around a verb: the nearest noun on each side, and all of them."""

    left: str | None
    right: str | None
    all_left: frozenset[str]
    all_right: frozenset[str]


def roles(seed: Sequence[Word], text: Sequence[Word]) -> tuple[float, ...]:
    """`ROLES` of a text against its seed, each as `read_words` gives it.

    `agents`, `patients`: share of the verbs of both texts with the same noun on their left, on their right; 0.5 where
    they share no verb. `crossed`: verbs with a nearest noun that went to their other side. `changed_sides`: nouns that
    did so, of the verb with most of them; `exchanged_sides`: those that changed places with another. `commas`,
    `relatives`: how many more than in the seed.
    """
    one, other = _verbs(seed), _verbs(text)
    both = [(around, other[verb]) for verb, around in one.items() if verb in other]
    sides = [(len(a.all_left & b.all_right), len(a.all_right & b.all_left)) for a, b in both]
    crossed = sum(
        (a.left is not None and a.left == b.right) or (a.right is not None and a.right == b.left) for a, b in both
    )
    return (
        sum(a.left == b.left for a, b in both) / len(both) if both else 0.5,
        sum(a.right == b.right for a, b in both) / len(both) if both else 0.5,
        float(crossed),
        float(max((sum(pair) for pair in sides), default=0)),
        float(max((min(pair) for pair in sides), default=0)),
        float(sum(w.text == "," for w in text) - sum(w.text == "," for w in seed)),
        float(len(both)),
        float(sum(w.tag in ("PNQ", "CJT") for w in text) - sum(w.tag in ("PNQ", "CJT") for w in seed)),
    )


def _verbs(words: Sequence[Word]) -> dict[str, _Around]:
    """The verbs of a text by their stems, the first of each."""
    nouns = [_noun(word) for word in words]
    found: dict[str, _Around] = {}
    for k, word in enumerate(words):
        alone = word.tag.startswith("VH") and not any(w.tag.startswith("VV") for w in words[k + 1 : k + 3])
        if word.lemma in _SAYING or not (alone or word.tag.startswith("VV")):
            continue
        left = (nouns[j] for j in range(k - 1, -1, -1) if nouns[j] and not _is_linked(words, j))
        right = (noun for noun in nouns[k + 1 :] if noun)
        sides = frozenset(n for n in nouns[:k] if n), frozenset(n for n in nouns[k + 1 :] if n)
        found.setdefault(word.lemma[:_STEM], _Around(next(left, None), next(right, None), *sides))
    return found


def _noun(word: Word) -> str | None:
    form = word.text.lower()
    if form in PERSONS and form not in _OWNERS:
        return PERSONS[form]
    return word.lemma[:_STEM] if word.tag.startswith(("NN", "NP")) or word.lemma in _ANYONE else None


def _is_linked(words: Sequence[Word], k: int) -> bool:
    """Does a preposition stand before the noun: `people in debt`?"""
    for word in reversed(words[max(0, k - 3) : k]):
        if word.tag.startswith("PR"):
            return True
        if not word.tag.startswith(("AT", "DT", "DP", "AJ", "CRD", "ORD")):
            return False
    return False
