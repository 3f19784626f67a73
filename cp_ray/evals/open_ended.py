"""Open questions: what a model says about a survey's questions in its own words, for a culture."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cp_ray.cultures import Culture, of
from cp_ray.errors import ConfigError
from cp_ray.evals.bias import OpenAnswer
from cp_ray.evals.judge import Pair
from cp_ray.llm.call import Generate, Sampling
from cp_ray.records import Item, Message, Seed
from cp_ray.survey.asking import persona

__all__ = ["SayConfig", "open_items", "pairs", "say"]

_ASKED = "{question} Say what you think and why, in a few sentences."


@dataclass(frozen=True)
class SayConfig:
    """How a model is asked to speak."""

    name: str
    """Of the model in all figures."""
    model: str
    max_tokens: int = 160
    temperature: float = 0.7
    seed: int = 0
    url: str = ""
    """Of its server."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens: must be at least 1, got {self.max_tokens}")


def open_items(seeds: Iterable[Seed], cultures: Sequence[Culture]) -> list[Item]:
    """Each culture's held-out questions, without their options."""
    return [
        Item(
            f"open/{seed.id}", seed.culture, "open",
            (
                Message("system", persona(of(cultures, seed.culture))),
                Message("user", _ASKED.format(question=seed.question)),
            ),
            (), source=seed.question,
        )
        for seed in seeds
        if seed.split == "heldout"
    ]  # fmt: skip


async def say(item: Item, generate: Generate, config: SayConfig) -> list[OpenAnswer]:
    """A model's answer; one that was withheld has its reason, and counts as a refusal."""
    said = await generate(item.messages, Sampling(config.temperature, config.max_tokens, config.seed))
    return [OpenAnswer(f"{config.name}/{item.id}", config.name, item.culture, item.id, said.text.strip())]


def pairs(answers: Sequence[OpenAnswer], items: Sequence[Item], cultures: Sequence[Culture]) -> list[Pair]:
    """Each two models' answers to each question that both have answered, in an order that hangs on the pair alone."""
    asked = {item.id: item for item in items}
    said = {(a.question, a.model): a.text for a in answers if a.text}
    models = list(dict.fromkeys(a.model for a in answers))
    found = []
    for k, first in enumerate(models):
        for second in models[k + 1 :]:
            for id, item in asked.items():
                if (id, first) in said and (id, second) in said:
                    key = hashlib.sha256(f"{first}|{second}".encode()).hexdigest()[:8]
                    people = of(cultures, item.culture).people
                    texts = (said[id, first], said[id, second])
                    found.append(Pair(f"{key}/{id}", item.culture, people, item.source, first, second, *texts))
    return found
