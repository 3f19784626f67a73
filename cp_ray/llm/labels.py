"""By how much a label was the likeliest answer, from the log-probabilities of an answer's tokens."""

import math
import re
from collections.abc import Sequence

from cp_ray.llm.call import Completion, Token

__all__ = ["AMBIGUOUS", "TOLD_NOTHING", "label_margin"]

TOLD_NOTHING = "the teacher tells no log-probabilities"
AMBIGUOUS = "the label is not among the likeliest tokens"

_BEFORE = re.compile(r"^[^a-z]+")
"""What may stand in a token before a label: spaces, quotes, JSON's signs."""


def label_margin(answer: Completion, label: str, labels: Sequence[str]) -> tuple[float | None, str | None]:
    """The probability of the label that was read from an answer less that of the likeliest other one.

    All labels' probabilities sum to 1: what the model would have said besides them does not count. They are told apart
    where the label begins, by the tokens that were likeliest there; one that is not among them counts as the least
    likely that is, which is the most that it can have.

    Args:
        answer: with the log-probabilities of its tokens.
        label: one of the labels, which stands in the answer's text.
        labels: those there are, in lower case, no two of which begin with the same letter.

    Returns:
        The margin, from -1 to 1 (below 0 where the answer was not the likeliest), and None; or None and the reason.
    """
    if not answer.logprobs:
        return None, TOLD_NOTHING
    token = _where_it_begins(answer.logprobs, label)
    if token is None or not token.top:
        return None, AMBIGUOUS
    found: dict[str, float] = {}
    for text, logprob in token.top:
        begins = _BEFORE.sub("", text.lower())
        for one in labels:
            if begins and (one.startswith(begins) or begins.startswith(one)):
                found[one] = found.get(one, 0.0) + math.exp(logprob)
    if label not in found:
        return None, AMBIGUOUS
    least = math.exp(min(logprob for _, logprob in token.top))
    shares = [found.get(one, least) for one in labels if one != label]
    return round((found[label] - max(shares)) / (found[label] + math.fsum(shares)), 6), None


def _where_it_begins(tokens: Sequence[Token], label: str) -> Token | None:
    """The token with the label's first letter."""
    start = "".join(token.text for token in tokens).lower().find(label)
    if start < 0:
        return None
    for token in tokens:
        start -= len(token.text)
        if start < 0:
            return token
    return None
