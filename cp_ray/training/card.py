"""The model card that goes with what was trained."""

from collections.abc import Sequence

from cp_ray.records import TrainPoint
from cp_ray.training.config import AdapterConfig, TrainConfig, hub_name
from cp_ray.training.data import Learnt

__all__ = ["model_card"]

_CARD = """\
---
base_model: {base}
library_name: {library}
tags: [{tags}culture, survey]
---
# {title}

{what} with which the base model answers survey questions more like {people} did in {survey}
({countries}). Made by cp_ray from {sources}.

| | |
|---|---|
| base model | {base} |
| method | {method} |
| adapted layers | {layers} |
| examples | {answers:,} of answers, {opinions:,} of opinions |
| objective | {objective} |
| learning rate | {rate}, rising over {warmup:.0%} of the steps, then falling to 0 |
| passes, prompts per step | {passes}, {batch} |
| steps, tokens | {steps}, {tokens} |
| loss of an answer, first step, last step | {first:.3f}, {last:.3f} nats |
| validation loss | {validation} |
| trained beside it | {beside} |
| seed | {seed} |

Use it with the system prompt it was trained with: {systems}

A country is not a culture, and a survey's average is nobody: not for decisions about a person. {terms}
The base model's licence holds for the base model.
"""


_ANSWERS = "the answers that people gave to the survey\n(CultureLLM, arXiv:2402.10946)"
_OPINIONS = "opinions out of dialogues between language models\n(CulturePark, arXiv:2405.15145)"


def model_card(config: TrainConfig, adapter: AdapterConfig, points: Sequence[TrainPoint], learnt: Learnt) -> str:
    """A Hugging Face model card, as Markdown."""
    from cp_ray.survey.asking import persona

    people = " and ".join(culture.people for culture in adapter.cultures)
    validated = [p for p in points if p.validation is not None]
    best = min(validated, key=lambda p: p.validation or 0.0, default=None)
    beside = [other.name for other in config.adapters if other is not adapter]
    adapted = config.method != "full"
    kind = "DoRA" if config.method == "dora" else "LoRA"
    sources = [_ANSWERS] * bool(learnt.answers) + [_OPINIONS] * bool(learnt.opinions)
    return _CARD.format(
        base=hub_name(config.base_model),
        library="peft" if adapted else "transformers",
        tags=f"{kind.lower()}, " if adapted else "",
        title=f"{people}: a culture {'adapter' if adapted else 'model'}",
        what=f"A {kind} adapter" if adapted else "A model",
        sources=", and from ".join(sources),
        answers=learnt.answers,
        opinions=learnt.opinions,
        people=people,
        survey=config.survey.name,
        terms=config.survey.terms,
        countries=", ".join(country for culture in adapter.cultures for country in culture.countries),
        method=f"{config.method}, rank {config.rank}, alpha {config.alpha}" if adapted else "all weights",
        layers="all" if config.layers is None else f"the topmost, {config.layers} at most",
        objective=config.objective,
        rate=adapter.learning_rate,
        warmup=adapter.warmup,
        passes=adapter.passes,
        batch=adapter.batch_size,
        steps=len(points),
        tokens=points[-1].tokens,
        first=points[0].loss,
        last=points[-1].loss,
        validation="none"
        if best is None
        else f"{best.validation:.3f} nats at step {best.step}, whose weights these are",
        beside=", ".join(beside) or "nothing",
        seed=config.seed,
        systems="; ".join(f'"{persona(culture)}"' for culture in adapter.cultures),
    )
