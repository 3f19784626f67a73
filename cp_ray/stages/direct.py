"""direct: opinions asked for in one call, without a dialogue; what a dialogue adds is measured against it."""

from dataclasses import dataclass

from cp_ray.cultures import Culture, of
from cp_ray.errors import ConfigError
from cp_ray.llm.call import Generate, Sampling
from cp_ray.records import Candidate, Message, Opinion
from cp_ray.stages.prompts import CLAIM
from cp_ray.stages.text import read_list, trim_to_sentence

__all__ = ["DirectConfig", "direct", "direct_prompt"]


@dataclass(frozen=True)
class DirectConfig:
    """How opinions are asked for."""

    teacher: str
    cultures: tuple[Culture, ...]
    opinions: int = 10
    """Asked for in one call."""
    temperature: float = 0.7
    max_tokens: int = 512
    min_words: int = 5
    """Shorter ones say nothing by themselves."""
    seed: int = 0
    claim: str = CLAIM
    system: str = "You know what people of many cultures think, and why."
    user: str = (
        "{claim}\nWrite a numbered list of {n} different reasons why they think so, one short sentence each. "
        'Begin each with "{people} think that".'
    )

    def __post_init__(self) -> None:
        if self.opinions < 1:
            raise ConfigError(f"opinions: must be at least 1, got {self.opinions}")


async def direct(candidate: Candidate, generate: Generate, config: DirectConfig) -> list[Opinion]:
    """Opinions on one seed, each a row; one rejected row where there is none."""
    draw = config.seed * 1000 + candidate.sample
    answer = await generate(direct_prompt(candidate, config), Sampling(config.temperature, config.max_tokens, draw))
    if answer.finish_reason not in ("stop", "length"):
        return [_row(candidate, config, 0, "", answer.finish_reason)]
    text = trim_to_sentence(answer.text) if answer.finish_reason == "length" else answer.text
    entries = read_list(text)[: config.opinions]
    if not entries:
        return [_row(candidate, config, 0, text.strip(), "not a list")]
    return [
        _row(candidate, config, k, entry, "too short" if len(entry.split()) < config.min_words else None)
        for k, entry in enumerate(entries)
    ]


def direct_prompt(candidate: Candidate, config: DirectConfig) -> list[Message]:
    """What the teacher is sent about a seed."""
    people = of(config.cultures, candidate.seed.culture).people
    user = config.user.format(claim=_claim(candidate, config), n=config.opinions, people=people)
    return [Message("system", config.system), Message("user", user)]


def _claim(candidate: Candidate, config: DirectConfig) -> str:
    seed = candidate.seed
    return config.claim.format(
        question=seed.question, people=of(config.cultures, seed.culture).people, stance=seed.stance
    )


def _row(candidate: Candidate, config: DirectConfig, number: int, text: str, reject: str | None) -> Opinion:
    seed = candidate.seed
    return Opinion(
        id=f"{seed.id}/direct/{candidate.sample}/{number}",
        dialogue_id="",
        seed_id=seed.id,
        culture=seed.culture,
        speaker="",
        claim=_claim(candidate, config),
        question=seed.question,
        text=text,
        reject=reject,
    )
