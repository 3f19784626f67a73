"""examples: survey answers drawn in proportion to the real distribution, and opinions, as chats to train on."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from cp_ray.cultures import Culture, of
from cp_ray.errors import ConfigError
from cp_ray.records import Example, Message, Opinion, Seed
from cp_ray.survey.asking import ask, persona

__all__ = ["ExamplesConfig", "check_split", "make_examples"]


@dataclass(frozen=True)
class ExamplesConfig:
    """What to train on."""

    cultures: tuple[Culture, ...]
    """Of the seeds."""
    answers: int = 32
    """Respondents drawn for each seed; one half sees the options in reverse order."""
    seed: int = 0
    opinion_user: str = "What do {people} think about this? {question}"

    def __post_init__(self) -> None:
        if self.answers < 2:
            raise ConfigError(f"answers: must be at least 2, one for each order of the options, got {self.answers}")


def make_examples(seeds: Sequence[Seed], opinions: Sequence[Opinion], config: ExamplesConfig) -> list[Example]:
    """Training chats from the training seeds and the opinions that count.

    Raises:
        ValueError: a held-out question would get into a training row.
    """
    training = [seed for seed in seeds if seed.split == "train"]
    by_id = {seed.id: seed for seed in training}
    examples = [example for seed in training for example in _answers(seed, config)]
    for opinion in opinions:
        if opinion.reject is None:
            if opinion.seed_id not in by_id:
                raise ValueError(f"{opinion.id} comes from {opinion.seed_id}, which is not a training seed")
            examples.append(_opinion(opinion, by_id[opinion.seed_id], config))
    check_split(examples, seeds)
    return examples


def check_split(examples: Sequence[Example], seeds: Sequence[Seed]) -> int:
    """Make sure that no training row holds a held-out question, by its id or by its words; how many pairs were checked.

    Raises:
        ValueError: one does.
    """
    heldout = {seed.question_id: seed.question for seed in seeds if seed.split == "heldout"}
    for example in examples:
        text = "\n".join(message.content for message in example.messages)
        for id, question in heldout.items():
            if example.question_id == id or question in text:
                raise ValueError(f"the training row {example.id} holds the held-out question {id}")
    return len(examples) * len(heldout)


def _answers(seed: Seed, config: ExamplesConfig) -> list[Example]:
    # Seeded by the seed's id, so that a culture's rows are the same whichever others are in the run.
    rng = random.Random(hashlib.sha256(f"{config.seed}/{seed.id}".encode()).digest())
    culture = of(config.cultures, seed.culture)
    drawn = rng.choices(seed.options, seed.distribution, k=config.answers)
    return [
        Example(
            id=f"{seed.id}/answer/{k:04d}",
            culture=seed.culture,
            kind="answer",
            question_id=seed.question_id,
            messages=(
                *ask(culture, seed.question, seed.options, reverse=k % 2 == 1),
                Message("assistant", answer),
            ),
            parents=(seed.id,),
            split="train",
        )
        for k, answer in enumerate(drawn)
    ]


def _opinion(opinion: Opinion, seed: Seed, config: ExamplesConfig) -> Example:
    culture = of(config.cultures, seed.culture)
    user = config.opinion_user.format(people=culture.people, question=seed.question)
    return Example(
        id=opinion.id,
        culture=seed.culture,
        kind="opinion",
        question_id=seed.question_id,
        messages=(
            Message("system", persona(culture)),
            Message("user", user),
            Message("assistant", opinion.text),
        ),
        parents=(opinion.id, opinion.dialogue_id, seed.id),
        split="train",
    )
