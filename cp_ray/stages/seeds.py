"""seeds: survey questions with one culture's real answers, split once by question."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cp_ray.cultures import Culture
from cp_ray.errors import ConfigError
from cp_ray.records import Candidate, Seed
from cp_ray.survey.items import Item, Source, pooled

__all__ = [
    "CandidatesConfig",
    "NeighboursConfig",
    "SeedsConfig",
    "candidates",
    "from_neighbours",
    "heldout_questions",
    "make_seeds",
]


@dataclass(frozen=True)
class SeedsConfig:
    """Which seeds to make."""

    cultures: tuple[Culture, ...]
    survey: str
    """What the survey holds, as a hash."""
    source: Source
    heldout: int | None = None
    """Questions kept for the test, over all topics; None for a fifth."""
    split_seed: int = 0
    """Of its own, so that runs of different seeds are judged on the same questions."""
    questions: int | None = None
    """Use only so many training questions, spread over the topics; None for all."""

    def __post_init__(self) -> None:
        for name in ("heldout", "questions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: must be at least 1, got {value}")


@dataclass(frozen=True)
class CandidatesConfig:
    """How much is talked about."""

    seeds: int | None = None
    """Of each culture, spread over the topics; None for all."""
    per_seed: int = 1
    """Dialogues about each."""

    def __post_init__(self) -> None:
        for name in ("seeds", "per_seed"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: must be at least 1, got {value}")


@dataclass(frozen=True)
class NeighboursConfig:
    """Whose answers stand in for a culture's."""

    seeds: SeedsConfig
    """Of the neighbours."""
    of: tuple[tuple[str, tuple[str, ...]], ...]
    """Culture and its neighbours, by id."""


def make_seeds(config: SeedsConfig, items: Sequence[Item]) -> list[Seed]:
    """Every question that was asked of each culture, with its answers.

    Raises:
        ConfigError: a culture was asked nothing in this survey, or nothing that is held out or trained on.
    """
    order = _spread(items, config.split_seed)
    heldout = heldout_questions(items, config.heldout, config.split_seed)
    used = heldout | _training(config, items, order, heldout)
    place = {id: k for k, id in enumerate(order)}
    seeds = []
    for culture in config.cultures:
        own = [
            seed
            for item in items
            if item.id in used
            if (seed := _seed(config, culture, item, place[item.id], heldout=item.id in heldout))
        ]
        _check(culture, own)
        seeds += own
    return seeds


def from_neighbours(seeds: Sequence[Seed], config: NeighboursConfig, items: Sequence[Item]) -> list[Seed]:
    """The seeds with the mean of the neighbours' answers in the place of each culture's own, in training alone.

    A training question that no neighbour was asked is left out; held-out ones keep the people's own answers.
    """
    asked = {(s.culture, s.question_id): s for s in make_seeds(config.seeds, items)}
    found = []
    for seed in seeds:
        if seed.split == "heldout":
            found.append(seed)
            continue
        near = [asked[n, seed.question_id] for n in dict(config.of)[seed.culture] if (n, seed.question_id) in asked]
        if near:
            shares = tuple(sum(column) / len(near) for column in zip(*(n.distribution for n in near), strict=True))
            stance = seed.options[shares.index(max(shares))]
            people = sum(n.respondents for n in near)
            found.append(replace(seed, distribution=shares, respondents=people, stance=stance))
    return found


def candidates(seeds: Sequence[Seed], config: CandidatesConfig) -> list[Candidate]:
    """What to talk about, in the order to take it: training seeds only, each once before any a second time."""
    by_culture: dict[str, list[Seed]] = defaultdict(list)
    for seed in sorted(seeds, key=lambda s: s.place):
        if seed.split == "train":
            by_culture[seed.culture].append(seed)
    return [
        Candidate(f"{seed.id}/{sample}", seed, sample)
        for own in by_culture.values()
        for sample in range(config.per_seed)
        for seed in own[: config.seeds]
    ]


def heldout_questions(items: Sequence[Item], n: int | None, seed: int) -> frozenset[str]:
    """Ids of the questions to keep for the test, every topic represented in proportion to its size.

    They hang on the survey alone and not on the cultures, so that no run trains on what another is judged on.

    Raises:
        ConfigError: nothing would be left to train on.
    """
    n = max(1, len(items) // 5) if n is None else n
    if n >= len(items):
        raise ConfigError(f"heldout: must be fewer than the survey's questions, which are {len(items)}, got {n}")
    return frozenset(_spread(items, seed)[:n])


def _training(config: SeedsConfig, items: Sequence[Item], order: Sequence[str], heldout: frozenset[str]) -> set[str]:
    """Questions to train on: asked of somebody here, and not the words of a held-out one with more around them."""
    by_id = {item.id: item for item in items}
    kept_back = [by_id[id].question for id in heldout]
    training = (
        id
        for id in order
        if id not in heldout
        if any(pooled(by_id[id], culture.countries) for culture in config.cultures)
        if not any(question in by_id[id].question for question in kept_back)
    )
    return set(list(training)[: config.questions])


def _check(culture: Culture, seeds: Sequence[Seed]) -> None:
    if not seeds:
        raise ConfigError(
            f"cultures: the survey has no answers from {', '.join(culture.countries)}, "
            f"the countries of {culture.id!r}; leave it out or give another --survey"
        )
    for split, what in (("train", "to train on"), ("heldout", "held out")):
        if not any(seed.split == split for seed in seeds):
            raise ConfigError(
                f"cultures: {culture.id!r} was asked none of the questions {what}; leave it out or take more"
            )


def _spread(items: Sequence[Item], seed: int) -> list[str]:
    """All questions in such an order that every beginning of it is spread over the topics.

    Each topic's questions are shuffled and laid out evenly between 0 and 1, the first near 0; sorting by place
    interleaves the topics in proportion to their sizes.
    """
    rng = random.Random(seed)
    topics: dict[str, list[str]] = defaultdict(list)
    for item in items:
        topics[item.topic].append(item.id)
    places: list[tuple[float, str]] = []
    for ids in topics.values():
        rng.shuffle(ids)
        places += [(k / len(ids) + 0.1 / len(ids), id) for k, id in enumerate(ids)]
    return [id for _, id in sorted(places)]


def _seed(config: SeedsConfig, culture: Culture, item: Item, place: int, *, heldout: bool) -> Seed | None:
    answers = pooled(item, culture.countries)
    if answers is None:
        return None
    return Seed(
        id=f"{culture.id}/{item.id}",
        culture=culture.id,
        source=config.source.id,
        question_id=item.id,
        topic=item.topic,
        question=item.question,
        options=item.options,
        distribution=answers.shares,
        respondents=answers.respondents,
        stance=item.options[answers.shares.index(max(answers.shares))],
        split="heldout" if heldout else "train",
        place=place,
    )
