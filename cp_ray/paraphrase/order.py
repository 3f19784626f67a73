"""In which order two wordings say the same words, and what else of their build differs.

Who does what to whom stands in the order of the words, and in what turns it round: the passive, `by`, `than`, `before`.
None of it is right or wrong by itself; the trees in `meaning` learn what goes together.
"""

import itertools
from collections import Counter
from collections.abc import Sequence

from cp_ray.paraphrase.roles import PERSONS
from cp_ray.paraphrase.rules import is_passive
from cp_ray.paraphrase.words import Word

__all__ = ["ORDER", "order"]

ORDER = ("moved", "nouns_moved", "first_noun", "last_noun", "voice", "hinges", "by", "than", "lost_links", "new_links")
"""Names of what `order` gives."""

_HINGES = ("than", "before", "after", "until", "unless", "without", "except", "only")
_STEM = 5


def order(seed: Sequence[Word], text: Sequence[Word]) -> tuple[float, ...]:
    """`ORDER` of a text against its seed, each as `read_words` gives it.

    `moved`: share of the pairs of words of weight on both sides that stand the other way round; `first_noun`: both
    begin with the same; `voice`: one is in the passive; `hinges`: words on one side that turn what stands around them;
    `lost_links`, `new_links`: prepositions.
    """
    nouns = _weighty(seed, nouns=True), _weighty(text, nouns=True)
    links = _links(seed), _links(text)
    return (
        _moved(_weighty(seed), _weighty(text)),
        _moved(*nouns),
        _same(nouns[0][:1], nouns[1][:1]),
        _same(nouns[0][-1:], nouns[1][-1:]),
        float(is_passive(seed) != is_passive(text)),
        float(sum(abs(_count(seed, hinge) - _count(text, hinge)) for hinge in _HINGES)),
        float(_count(text, "by") - _count(seed, "by")),
        float(_count(text, "than") - _count(seed, "than")),
        float((links[0] - links[1]).total()),
        float((links[1] - links[0]).total()),
    )


def _weighty(words: Sequence[Word], nouns: bool = False) -> list[str]:
    """Words of weight, or nouns alone, by their stems; persons by who they are."""
    found = []
    for word in words:
        person = PERSONS.get(word.text.lower())
        if person is not None:
            found.append(person)
        elif word.is_content and (not nouns or word.tag.startswith(("NN", "NP"))):
            found.append(word.lemma[:_STEM])
    return found


def _moved(one: Sequence[str], other: Sequence[str]) -> float:
    once = {word for word, n in Counter(one).items() if n == 1} & {word for word, n in Counter(other).items() if n == 1}
    place = {word: k for k, word in enumerate(other)}
    pairs = list(itertools.combinations([word for word in one if word in once], 2))
    return sum(place[a] > place[b] for a, b in pairs) / max(1, len(pairs))


def _same(one: Sequence[str], other: Sequence[str]) -> float:
    return float(bool(one) and one == other)


def _count(words: Sequence[Word], lemma: str) -> int:
    return sum(word.lemma == lemma for word in words)


def _links(words: Sequence[Word]) -> Counter[str]:
    return Counter(word.lemma for word in words if word.tag.startswith("PR"))
