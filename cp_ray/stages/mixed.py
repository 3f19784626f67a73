"""mixed: questions made of two training questions, as rows of their own, so that they are checked like all other texts.

In English. Who is asked in another language is asked the two questions in it, cut at the same place.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cp_ray.errors import ConfigError
from cp_ray.records import Mixture, Seed
from cp_ray.survey.mixed import mixed, pairs

__all__ = ["MixedConfig", "mix"]

KNOWN = "a question of the survey"


@dataclass(frozen=True)
class MixedConfig:
    """How many."""

    each: int
    """Questions made of two, for each training question of a culture."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.each < 0:
            raise ConfigError(f"mixed: must be at least 0, got {self.each}")


def mix(seeds: Sequence[Seed], config: MixedConfig) -> list[Mixture]:
    """Questions made of a culture's training questions; what comes out as one of the survey's is set aside."""
    asked = {seed.question for seed in seeds}
    training = [seed for seed in seeds if seed.split == "train"]
    return [_mixture(*pair, asked) for pair in pairs(training, config.each, config.seed)]


def _mixture(one: Seed, other: Seed, cut: float, asked: Iterable[str]) -> Mixture:
    text = mixed(one.question, other.question, cut)
    return Mixture(
        id=f"{one.id}+{other.question_id}",
        culture=one.culture,
        question_id=one.question_id,
        other_question_id=other.question_id,
        cut=cut,
        text=text,
        reject=KNOWN if any(question in text for question in asked) else None,
    )
