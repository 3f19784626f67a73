"""direct: opinions asked for in one call, without a dialogue; what a dialogue adds is measured against it."""

from dataclasses import dataclass, replace

from cp_ray.cultures import Culture, of
from cp_ray.errors import ConfigError
from cp_ray.llm.call import Generate, Sampling
from cp_ray.llm.structured import ask_json
from cp_ray.records import Candidate, Message, Opinion
from cp_ray.stages.prompts import CLAIM, OPINIONS
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

    structured: bool = False
    """Ask for JSON by a schema; for teachers that can."""
    user_json: str = (
        "{claim}\nGive {n} different reasons why they think so, each as one short sentence that begins with "
        '"{people} think that". Answer with JSON: {{"opinions": [...]}}.'
    )

    def __post_init__(self) -> None:
        if self.opinions < 1:
            raise ConfigError(f"opinions: must be at least 1, got {self.opinions}")


async def direct(candidate: Candidate, generate: Generate, config: DirectConfig) -> list[Opinion]:
    """Opinions on one seed, each a row; one rejected row where there is none."""
    entries, reject = await (_listed_json if config.structured else _listed)(candidate, generate, config)
    if reject is not None:
        return [_row(candidate, config, 0, "", reject)]
    return [
        _row(candidate, config, k, entry, "too short" if len(entry.split()) < config.min_words else None)
        for k, entry in enumerate(entries[: config.opinions])
    ]


async def _listed(candidate: Candidate, generate: Generate, config: DirectConfig) -> tuple[list[str], str | None]:
    """The entries, or why there are none."""
    answer = await generate(direct_prompt(candidate, config), _sampling(candidate, config))
    if answer.finish_reason not in ("stop", "length"):
        return [], answer.finish_reason
    entries = read_list(trim_to_sentence(answer.text) if answer.finish_reason == "length" else answer.text)
    return entries, None if entries else "not a list"


async def _listed_json(candidate: Candidate, generate: Generate, config: DirectConfig) -> tuple[list[str], str | None]:
    """The same, asked for as JSON."""
    sampling = replace(_sampling(candidate, config), schema=OPINIONS)
    answer = await ask_json(generate, direct_prompt(candidate, config), sampling)
    if answer.reject is not None:
        return [], answer.reject
    entries = [entry.strip() for entry in answer.value["opinions"]]
    return entries, None if entries else "no opinion given"


def _sampling(candidate: Candidate, config: DirectConfig) -> Sampling:
    return Sampling(config.temperature, config.max_tokens, config.seed * 1000 + candidate.sample)


def direct_prompt(candidate: Candidate, config: DirectConfig) -> list[Message]:
    """What the teacher is sent about a seed."""
    people = of(config.cultures, candidate.seed.culture).people
    template = config.user_json if config.structured else config.user
    user = template.format(claim=_claim(candidate, config), n=config.opinions, people=people)
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
