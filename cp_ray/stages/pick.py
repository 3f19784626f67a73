"""pick: so many wordings of each question, as different from each other as there are."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from cp_ray.errors import ConfigError
from cp_ray.records import Paraphrase

__all__ = ["PickConfig", "pick"]

TOO_MANY = "more than asked for"
TWICE = "said before"


@dataclass(frozen=True)
class PickConfig:
    """How many wordings are kept."""

    per_question: int
    """Besides the survey's own."""

    def __post_init__(self) -> None:
        if self.per_question < 0:
            raise ConfigError(f"per_question: must not be negative, got {self.per_question}")


def pick(wordings: Sequence[Paraphrase], config: PickConfig) -> list[Paraphrase]:
    """All wordings; of those that count, the ones in excess are rejected, but never the survey's own.

    What says the same as another but for case and signs is one. The rest are taken in turn, each the one that shares
    the fewest words with those taken before (and with the survey's own), so that few wordings go far.
    """
    by_question: dict[str, list[Paraphrase]] = defaultdict(list)
    for wording in sorted(wordings, key=lambda w: w.id):
        by_question[wording.question_id].append(wording)
    return [row for rows in by_question.values() for row in _picked(rows, config.per_question)]


def _picked(rows: Sequence[Paraphrase], most: int) -> list[Paraphrase]:
    taken = [_said(rows[0].question)]
    left: dict[frozenset[str], str] = {}
    reasons: dict[str, str] = {}
    for row in rows:
        if row.reject is None and row.way != "survey":
            said = _said(row.text)
            if said in left or said == taken[0]:
                reasons[row.id] = TWICE
            else:
                left[said] = row.id
    while left and len(taken) <= most:
        said = min(left, key=lambda s: (max(_overlap(s, t) for t in taken), left[s]))
        taken.append(said)
        del left[said]
    reasons |= dict.fromkeys(left.values(), TOO_MANY)
    return [replace(row, reject=reasons.get(row.id, row.reject)) for row in rows]


def _said(text: str) -> frozenset[str]:
    """Its words and what follows on each, in lower case."""
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return frozenset([*words, *(f"{a} {b}" for a, b in pairwise(words))])


def _overlap(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(1, len(one | other))
