"""What the log-probabilities of drawn answers reveal of all options.

With each token of an answer a server tells the likeliest tokens at its place. So one answer shows how the model would
have begun every other one: as far as options differ in their first words, a single answer gives the probabilities of
all of them. Where two begin alike ("Strongly agree", "Strongly disagree"), an answer has to have gone that way.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cp_ray.llm.call import Token

__all__ = ["LEADS", "WRAPPING", "Revealed", "Tree", "plain", "reveal", "revealed"]

WRAPPING = " \t\r\n\"'`*_.,:;!?()[]{}<>«»“”‘’„「」。、！？：؟،।"
"""What may stand around an answer."""

LEADS = ("answer", "label", "option")
"""Words that may stand before an answer, with a colon."""

_TOLD = 3
"""So many letters tell an option from what is none, where no other option begins so."""

Tree = dict[str, dict[str, float]]
"""For the text of an answer so far, the probabilities of the tokens that go on from it."""


@dataclass(frozen=True, slots=True)
class Revealed:
    """Where a model's probability goes."""

    shares: tuple[float, ...]
    """Of each option; they sum to less than 1 by what names none."""
    unsure: float
    """What of this is shared evenly among options that begin alike, since no answer went that way."""


def reveal(tree: Tree, tokens: Iterable[Token]) -> None:
    """Add what an answer shows."""
    text = ""
    for token in tokens:
        shown = dict((*token.top, (token.text, token.logprob)))
        tree.setdefault(text, {}).update({one: math.exp(value) for one, value in shown.items()})
        text += token.text


def revealed(tree: Tree, options: Sequence[str]) -> Revealed:
    """The options' probabilities: an option has what begins as it alone does."""
    found = [0.0] * len(options)
    unsure = 0.0
    waiting = [("", 1.0)]
    while waiting:
        text, mass = waiting.pop()
        named, sure = _named(text, options)
        if sure or text not in tree:
            for k in named:
                found[k] += mass / len(named)
            unsure += 0.0 if sure or not named else mass
        else:
            # A token without text ends an answer.
            waiting += [(text + (token or "\n"), mass * share) for token, share in tree[text].items()]
    return Revealed(tuple(found), unsure)


def plain(text: str) -> str:
    """A text without what does not tell answers apart: case and forms of letters."""
    return unicodedata.normalize("NFKC", text).casefold()


def _named(text: str, options: Sequence[str]) -> tuple[list[int], bool]:
    """Which options an answer that begins so can name, and whether that is settled."""
    begun = plain(text).lstrip(WRAPPING)
    begun = re.sub(rf"^(?:{'|'.join(LEADS)})\s*[:=]\s*", "", begun).lstrip(WRAPPING)
    if any(f"{lead}:".startswith(begun.rstrip(" ")) for lead in LEADS):
        return list(range(len(options))), False  # nothing has been said yet
    words = [plain(option).strip(WRAPPING) for option in options]
    can = [k for k, one in enumerate(words) if one.startswith(begun.rstrip(" "))]
    if can:
        (only, *others) = can
        return can, not others and len(begun) >= min(_TOLD, len(words[only]))
    said = [k for k, one in enumerate(words) if re.match(rf"{re.escape(one)}(?!\w)", begun)]
    return ([max(said, key=lambda k: len(words[k]))] if said else []), True
