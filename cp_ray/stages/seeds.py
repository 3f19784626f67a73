"""seeds: survey questions with one culture's real answers, split once by question."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cp_ray.cultures import CULTURES
from cp_ray.errors import ConfigError
from cp_ray.records import Seed
from cp_ray.survey.counts import Counts, answer_shares
from cp_ray.survey.questions import QUESTIONS, Question

__all__ = ["SeedsConfig", "heldout_questions", "make_seeds", "pick"]


@dataclass(frozen=True)
class SeedsConfig:
    """Which seeds to make."""

    cultures: tuple[str, ...]
    survey: str
    """Content hash of the survey's counts."""
    source: str = "wvs7"
    heldout: int = 10
    """Questions kept for the test, over all topics."""
    split_seed: int = 0
    """Of its own, so that runs of different seeds are judged on the same questions."""
    questions: int | None = None
    """Use only so many training questions, spread over the topics; None for all."""

    def __post_init__(self) -> None:
        if not 1 <= self.heldout < len(QUESTIONS):
            raise ConfigError(f"heldout: must be between 1 and {len(QUESTIONS) - 1}, got {self.heldout}")
        if self.questions is not None and self.questions < 1:
            raise ConfigError(f"questions: must be at least 1, got {self.questions}")


def make_seeds(config: SeedsConfig, counts: Counts) -> list[Seed]:
    """Every question that was asked of each culture, with its answers.

    Raises:
        ConfigError: a culture was asked nothing in this survey.
    """
    heldout = heldout_questions(config.heldout, config.split_seed)
    training = [q for q in _spread(config.split_seed) if q not in heldout][: config.questions]
    seeds = []
    for name in config.cultures:
        own = [
            seed
            for question in QUESTIONS.values()
            if question.id in heldout or question.id in training
            if (seed := _seed(config, name, question, counts, heldout=question.id in heldout))
        ]
        if not own:
            raise ConfigError(
                f"cultures: the survey has no answers from {', '.join(CULTURES[name].countries)}, "
                f"the countries of {name!r}; leave it out or give another --survey"
            )
        seeds += own
    return seeds


def pick(seeds: Sequence[Seed], per_culture: int | None, split_seed: int = 0) -> list[Seed]:
    """Training seeds only; the first `per_culture` of each culture in an order that spreads them over the topics."""
    place = {id: k for k, id in enumerate(_spread(split_seed))}
    by_culture: dict[str, list[Seed]] = defaultdict(list)
    for seed in sorted(seeds, key=lambda s: place[s.question_id]):
        if seed.split == "train":
            by_culture[seed.culture].append(seed)
    return [seed for own in by_culture.values() for seed in own[:per_culture]]


def heldout_questions(n: int, seed: int) -> frozenset[str]:
    """Ids of `n` questions to keep for the test, every topic represented in proportion to its size."""
    return frozenset(_spread(seed)[:n])


def _spread(seed: int) -> list[str]:
    """All questions in such an order that every beginning of it is spread over the topics.

    Each topic's questions are shuffled and laid out evenly between 0 and 1, the first near 0; sorting by place
    interleaves the topics in proportion to their sizes.
    """
    rng = random.Random(seed)
    places: list[tuple[float, str]] = []
    for ids in _by_topic(QUESTIONS).values():
        rng.shuffle(ids)
        places += [(k / len(ids) + 0.1 / len(ids), id) for k, id in enumerate(ids)]
    return [id for _, id in sorted(places)]


def _by_topic(questions: Mapping[str, Question]) -> dict[str, list[str]]:
    topics: dict[str, list[str]] = defaultdict(list)
    for question in questions.values():
        topics[question.topic].append(question.id)
    return topics


def _seed(config: SeedsConfig, name: str, question: Question, counts: Counts, *, heldout: bool) -> Seed | None:
    answers = answer_shares(counts, CULTURES[name].countries, question.id, question.scale)
    if answers is None:
        return None
    options = question.scale.labels
    return Seed(
        id=f"{name}/{question.id}",
        culture=name,
        source=config.source,
        question_id=question.id,
        topic=question.topic,
        question=question.text,
        options=options,
        distribution=answers.shares,
        respondents=answers.respondents,
        stance=options[answers.shares.index(max(answers.shares))],
        split="heldout" if heldout else "train",
    )
