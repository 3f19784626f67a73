"""Ask every culture model the same question through the served endpoint, as an application would."""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cp_ray.cultures import Culture
from cp_ray.evals.distances import emd
from cp_ray.llm.contents import OnBase
from cp_ray.records import Prediction, Seed
from cp_ray.survey.asking import ask, persona

if TYPE_CHECKING:
    import openai

    from cp_ray.folder import Folder

__all__ = ["AskConfig", "ask_served_models", "most_telling"]


@dataclass(frozen=True)
class AskConfig(OnBase):
    """How the models are asked."""

    max_tokens: int = 24


def ask_served_models(
    seeds: Sequence[Seed], config: AskConfig, adapters: "Mapping[Culture, Folder]"
) -> list[Prediction]:
    """Serve the adapters, ask each through the `openai` client, stop serving.

    The question is the held-out one on which the cultures' people differ most.
    """
    import openai

    from cp_ray.serving.app import ServeSpec, application_of, serving

    seed = most_telling(seeds)
    spec = ServeSpec.of_cultures(config.base_model, adapters)
    name = application_of("asked", *(folder.uri for folder in adapters.values()))
    with serving(spec, name=name, route_prefix=f"/{name}") as url:
        client = openai.OpenAI(base_url=url, api_key="none")
        return [_answer(client, culture, seed, config) for culture in adapters]


def most_telling(seeds: Sequence[Seed]) -> Seed:
    """The held-out question whose real answers differ most between cultures; the first one if there is one culture."""
    by_question: dict[str, list[Seed]] = defaultdict(list)
    for seed in seeds:
        if seed.split == "heldout":
            by_question[seed.question_id].append(seed)

    def spread(same: Sequence[Seed]) -> float:
        return max((emd(a.distribution, b.distribution) for a, b in itertools.combinations(same, 2)), default=0.0)

    return max(by_question.values(), key=spread)[0]


def _answer(client: "openai.OpenAI", culture: Culture, seed: Seed, config: AskConfig) -> Prediction:
    user = ask(culture, seed.question, seed.options, reverse=False)[-1]
    reply = client.chat.completions.create(
        model=culture.id,
        messages=[{"role": "system", "content": persona(culture)}, {"role": "user", "content": user.content}],
        temperature=0,
        max_tokens=config.max_tokens,
    )
    return Prediction(
        id=f"{culture.id}/{seed.question_id}/chat",
        model=culture.id,
        culture=culture.id,
        task="chat",
        item=seed.question,
        output=(reply.choices[0].message.content or "").strip(),
    )
