"""How well people of two cultures talk: rates over the analysed utterances, with intervals over dialogues."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cp_ray.evals.intervals import Interval, ratio_interval, share_interval
from cp_ray.records import Analysis

__all__ = ["TalkRates", "rate", "talk_rates"]

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class TalkRates:
    """Of one culture's dialogues."""

    culture: str
    dialogues: int
    utterances: int
    """That were analysed."""
    extends: Interval | None
    """Share of the utterances after the first that carry the talk further; None where none is known."""
    understands: Interval | None
    """Share of the utterances that show understanding of the other's culture."""
    topics: tuple[tuple[str, float], ...]
    """The sorts of topics with their shares, the commonest first."""


def talk_rates(rows: Sequence[Analysis], *, seed: int = 0) -> list[TalkRates]:
    """The rates of every culture, in the order of the rows."""
    counting = [row for row in rows if row.reject is None]
    found = []
    for culture in dict.fromkeys(row.culture for row in counting):
        own = [row for row in counting if row.culture == culture]
        sorts = Counter(row.topic or "none" for row in own)
        found.append(
            TalkRates(
                culture, len({row.dialogue_id for row in own}), len(own),
                rate([(r.dialogue_id, r.extends) for r in own if r.extends is not None], seed=seed),
                rate([(r.dialogue_id, r.understands) for r in own if r.understands is not None], seed=seed),
                tuple((sort, n / len(own)) for sort, n in sorts.most_common()),
            )
        )  # fmt: skip
    return found


def rate(answers: Sequence[tuple[str, bool]], *, seed: int, resamples: int = _RESAMPLES) -> Interval | None:
    """Share of yes among (dialogue, answer), with its 95 % interval over dialogues.

    Utterances of a dialogue hang together, so whole dialogues are drawn; where all say the same, the interval is that
    of a share of so many dialogues (Wilson). None where there is no answer.
    """
    if not answers:
        return None
    said: dict[str, list[bool]] = {}
    for dialogue, answer in answers:
        said.setdefault(dialogue, []).append(answer)
    if len(said) > 1 and len({answer for _, answer in answers}) == 1:
        return share_interval(len(said) if answers[0][1] else 0, len(said))
    yes, asked = [float(sum(a)) for a in said.values()], [float(len(a)) for a in said.values()]
    return ratio_interval(yes, asked, resamples=resamples, seed=seed, bounds=(0.0, 1.0))
