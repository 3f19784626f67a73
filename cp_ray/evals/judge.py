"""Open answers of two models, judged pairwise: both orders, ties, and whether judges agree.

A judge favours what stands first, so every pair is judged in both orders. Only where both verdicts name the same answer
has it won; otherwise the pair is a tie. The win rate is (wins - losses) / pairs, from -1 to 1, as in CultureLLM, and 0
between equals.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cp_ray.evals.answer import UNPARSABLE, option_of, unanswered
from cp_ray.evals.compare import paired
from cp_ray.evals.intervals import interval
from cp_ray.llm.call import Generate, Sampling
from cp_ray.records import Message, Score

__all__ = ["TASK", "JudgeConfig", "Judgement", "Pair", "agreement", "judge", "judge_chat", "kappa", "win_rates"]

TASK = "open"

Verdict = Literal["first", "second", "tie"]

_CHOICES = ("A", "B", "equal")

_SYSTEM = "You compare answers to a question. You judge what they say, not how long they are or what stands first."
_USER = """\
Somebody asked: {question}
The answers are to speak for {people}.

Answer A: {a}

Answer B: {b}

Which of them speaks better for {people}: is truer to how they think and live, and more thoughtful? Reply with nothing \
but A, B or equal."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What two models said to one question."""

    id: str
    culture: str
    people: str
    question: str
    first: str
    """The model's name."""
    second: str
    first_text: str
    second_text: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """One judge's verdict on a pair."""

    id: str
    pair: str
    culture: str
    judge: str
    first: str
    second: str
    verdict: str = "tie"
    """`first`, `second` or `tie`."""
    swayed: bool = False
    """It named what stood in the same place both times."""
    reject: str | None = None


@dataclass(frozen=True)
class JudgeConfig:
    """Who judges."""

    judge: str
    """Its name in all figures."""
    model: str
    max_tokens: int = 8
    seed: int = 0
    url: str = ""
    """Of its server."""


def judge_chat(pair: Pair, *, swapped: bool) -> tuple[Message, ...]:
    """What a judge is asked; `swapped`: the second model's answer is A."""
    a, b = (pair.second_text, pair.first_text) if swapped else (pair.first_text, pair.second_text)
    user = _USER.format(question=pair.question, people=pair.people, a=a.strip(), b=b.strip())
    return Message("system", _SYSTEM), Message("user", user)


async def judge(pair: Pair, generate: Generate, config: JudgeConfig) -> list[Judgement]:
    """A pair's verdict: asked in both orders; a reply that is none of the three sets the pair aside."""
    sampling = Sampling(0.0, config.max_tokens, config.seed)
    replies = await asyncio.gather(*(generate(judge_chat(pair, swapped=s), sampling) for s in (False, True)))
    row = Judgement(
        f"{config.judge}/{pair.id}", pair.id, pair.culture, config.judge, pair.first, pair.second
    )  # fmt: skip
    said = [option_of(reply.text, _CHOICES) for reply in replies]
    if said[0] is None or said[1] is None:
        return [replace(row, reject=unanswered(*replies) or UNPARSABLE)]
    names: dict[str, tuple[Verdict, Verdict]] = {"A": ("first", "second"), "B": ("second", "first")}
    named = [names[s][k] if s in names else "tie" for k, s in enumerate(said)]
    return [replace(row, verdict=named[0] if named[0] == named[1] else "tie", swayed=said[0] == said[1] != "equal")]


def win_rates(judgements: Iterable[Judgement], *, resamples: int = 2000, seed: int = 0) -> list[Score]:
    """(wins - losses) / pairs of the first model against the second, by culture and judge, intervals over pairs.

    Beside each, as a figure named `p`, that of a paired permutation test, which equal models seldom pass.
    """
    groups: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    points = {"first": 1.0, "second": -1.0, "tie": 0.0}
    for row in judgements:
        if row.reject is None:
            groups[row.first, row.second, row.culture, row.judge].append(points[row.verdict])
    scores = []
    for (first, second, culture, who), own in groups.items():
        found = interval(own, resamples=resamples, seed=seed, bounds=(-1.0, 1.0))
        pair = f"against {second} by {who}"
        scores.append(Score(first, culture, TASK, f"win_rate {pair}", found.mean, found.low, found.high, len(own)))
        p = paired(own, [0.0] * len(own)).p
        scores.append(Score(first, culture, TASK, f"p {pair}", p, p, p, len(own)))
    return scores


def agreement(first: Sequence[Judgement], second: Sequence[Judgement]) -> tuple[float, float, int]:
    """Share of the pairs on which two judges say the same, Cohen's kappa, and the number of pairs both have judged.

    Raises:
        ValueError: there is none.
    """
    told = {row.pair: row.verdict for row in second if row.reject is None}
    pairs = [(row.verdict, told[row.pair]) for row in first if row.reject is None and row.pair in told]
    if not pairs:
        raise ValueError("the judges have no pair in common")
    return sum(a == b for a, b in pairs) / len(pairs), kappa(pairs), len(pairs)


def kappa(pairs: Sequence[tuple[str, str]]) -> float:
    """Cohen's kappa (1960): agreement beyond chance; 1 where both always say the same one thing."""
    n = len(pairs)
    names = {name for pair in pairs for name in pair}
    same = sum(a == b for a, b in pairs) / n
    chance = sum(
        (sum(a == name for a, _ in pairs) / n) * (sum(b == name for _, b in pairs) / n) for name in names
    )  # fmt: skip
    return 1.0 if chance == 1 else (same - chance) / (1 - chance)
