"""The model card that goes with an adapter."""

from collections.abc import Sequence

from cp_ray.records import TrainPoint
from cp_ray.training.config import TrainConfig

__all__ = ["model_card"]

_CARD = """\
---
base_model: {base}
library_name: peft
tags: [lora, culture, survey]
---
# {people}: a culture adapter

A LoRA adapter with which the base model answers survey questions more like {people} did in {survey}
({countries}). Made by cp_ray from answers drawn in proportion to the real distribution, and from opinions out of
dialogues between language models (CultureLLM, arXiv:2402.10946; CulturePark, arXiv:2405.15145).

| | |
|---|---|
| base model | {base} |
| rank, alpha | {rank}, {alpha} |
| adapted layers | {layers} |
| learning rate | {rate}, rising over {warmup:.0%} of the steps, then falling to 0 |
| passes, prompts per step | {passes}, {batch} |
| steps, tokens | {steps}, {tokens} |
| loss of an answer, first step, last step | {first:.3f}, {last:.3f} nats |
| seed | {seed} |

Use it with the system prompt it was trained with: "{system}"

A country is not a culture, and a survey's average is nobody: not for decisions about a person. {terms}
The base model's licence holds for the base model.
"""


def model_card(config: TrainConfig, points: Sequence[TrainPoint]) -> str:
    """A Hugging Face model card, as Markdown."""
    from cp_ray.survey.asking import persona

    return _CARD.format(
        base=config.hub_name,
        people=config.culture.people,
        survey=config.survey.name,
        terms=config.survey.terms,
        countries=", ".join(config.culture.countries),
        rank=config.rank,
        alpha=config.alpha,
        layers="all" if config.layers is None else f"the topmost {config.layers}",
        rate=config.learning_rate,
        warmup=config.warmup,
        passes=config.passes,
        batch=config.batch_size,
        steps=len(points),
        tokens=points[-1].tokens,
        first=points[0].loss,
        last=points[-1].loss,
        seed=config.seed,
        system=persona(config.culture),
    )
