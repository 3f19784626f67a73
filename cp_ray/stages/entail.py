"""entail: does the teacher find that two wordings ask the same, whichever of them stands first?"""

import asyncio
from dataclasses import dataclass, replace

from cp_ray.llm.call import Generate, Sampling
from cp_ray.llm.structured import ask_json, schema_text
from cp_ray.records import Message, Paraphrase
from cp_ray.stages.text import read_word

__all__ = ["SOMETHING_ELSE", "EntailConfig", "entail", "entail_prompt"]

SOMETHING_ELSE = "the teacher finds that it asks something else"

_SCHEMA = schema_text(
    {
        "type": "object",
        "properties": {"same": {"type": "string", "enum": ["yes", "no"]}},
        "required": ["same"],
        "additionalProperties": False,
    }
)


@dataclass(frozen=True)
class EntailConfig:
    """How the teacher is asked."""

    teacher: str
    temperature: float = 0.0
    max_tokens: int = 16
    seed: int = 0
    system: str = "You compare survey questions."
    user: str = (
        'First: "{first}"\nSecond: "{second}"\nPossible answers: {options}\n'
        "Somebody has answered the first. Does it follow, whoever that is, that they give the same answer to the "
        "second? Answer with one word: yes or no."
    )
    structured: bool = False
    """Ask for JSON by a schema; for teachers that can."""
    user_json: str = (
        'First: "{first}"\nSecond: "{second}"\nPossible answers: {options}\n'
        "Somebody has answered the first. Does it follow, whoever that is, that they give the same answer to the "
        'second? Answer with JSON: {{"same": "yes"}} or {{"same": "no"}}.'
    )


async def entail(wording: Paraphrase, generate: Generate, config: EntailConfig) -> list[Paraphrase]:
    """The wording; rejected unless the teacher says yes in both directions, which are asked at the same time."""
    pairs = ((wording.question, wording.text), (wording.text, wording.question))
    reasons = await asyncio.gather(*(_direction(*pair, wording, generate, config) for pair in pairs))
    return [replace(wording, reject=next((reason for reason in reasons if reason is not None), None))]


def entail_prompt(first: str, second: str, wording: Paraphrase, config: EntailConfig) -> list[Message]:
    """What the teacher is asked about one direction."""
    template = config.user_json if config.structured else config.user
    user = template.format(first=first, second=second, options="; ".join(wording.options))
    return [Message("system", config.system), Message("user", user)]


async def _direction(
    first: str, second: str, wording: Paraphrase, generate: Generate, config: EntailConfig
) -> str | None:
    """Why it does not follow; None if it does."""
    messages = entail_prompt(first, second, wording, config)
    sampling = Sampling(config.temperature, config.max_tokens, config.seed)
    if config.structured:
        found = await ask_json(generate, messages, replace(sampling, schema=_SCHEMA))
        said, reject = (found.value or {}).get("same"), found.reject
    else:
        answer = await generate(messages, sampling)
        said = read_word(answer.text, ("yes", "no"))
        reject = None if answer.finish_reason in ("stop", "length") else answer.finish_reason
    if reject is None and said is None:
        reject = "neither yes nor no"
    return reject if reject is not None or said == "yes" else SOMETHING_ELSE
