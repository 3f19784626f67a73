"""Where a text names the people of a culture."""

from collections.abc import Sequence

from cp_ray.cultures import Culture
from cp_ray.english.words import Word

__all__ = ["mentions"]


def mentions(found: Sequence[Word], culture: Culture) -> dict[int, int]:
    """First word and end of every place, outside of quotations, where the people are named.

    "Germans" and "German people" are; "German" alone is where no noun follows that it belongs to.
    """
    adjective = tuple(culture.adjective.lower().split())
    whole = (tuple(culture.people.lower().split()), (*adjective, "people"))
    lower = [word.lower for word in found]
    made: dict[int, int] = {}
    k = 0
    while k < len(found):
        forms = [form for form in whole if form != adjective and tuple(lower[k : k + len(form)]) == form]
        if not forms and tuple(lower[k : k + len(adjective)]) == adjective and _alone(found, k + len(adjective)):
            forms = [adjective]
        if forms and not found[k].quoted:
            made[k] = k + max(map(len, forms))
        k = made.get(k, k + 1)
    return made


def _alone(found: Sequence[Word], after: int) -> bool:
    """Does a verb or an adverb follow, so that the adjective stands for the people?"""
    return after < len(found) and found[after].tag.startswith(("VV", "VB", "VH", "VD", "VM", "AV0"))
