"""analyse: what each utterance of a dialogue is about, and what it does to the talk.

The questions are CulturePark's (arXiv 2405.15145): topics of three sorts (belief, norm, custom) with their kinds, the
extend rate and the rate of cross-cultural understanding. All three are asked in one call for an utterance, with a
closed list of topics.
"""

import asyncio
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from cp_ray.errors import ConfigError
from cp_ray.llm.call import Generate, Sampling
from cp_ray.llm.structured import ask_json, schema_text
from cp_ray.records import Analysis, Dialogue, Message

__all__ = ["TOPICS", "AnalyseConfig", "SampleConfig", "analyse", "analyse_prompt", "parse_analysis", "sample"]

TOPICS: dict[str, tuple[str, ...]] = {
    "belief": ("religious", "political", "social", "economic", "ethical", "scientific"),
    "norm": ("descriptive", "injunctive", "prescriptive", "proscriptive", "legal", "traditional"),
    "custom": ("social", "religious", "cultural", "family", "community", "economic"),
}
"""Sorts of topics, with their kinds."""

NONE = "none"
_LABELS = (*(f"{sort}/{kind}" for sort, kinds in TOPICS.items() for kind in kinds), NONE)
_ANSWERS: dict[str, tuple[str, ...]] = {"topic": _LABELS, "extends": ("yes", "no"), "understands": ("yes", "no")}
_SCHEMA = schema_text(
    {
        "type": "object",
        "properties": {name: {"type": "string", "enum": list(words)} for name, words in _ANSWERS.items()},
        "required": list(_ANSWERS),
        "additionalProperties": False,
    }
)


@dataclass(frozen=True)
class SampleConfig:
    """Which dialogues are analysed."""

    dialogues: int
    """Of each culture, at most."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dialogues < 1:
            raise ConfigError(f"analysed: must be at least 1, or 0 for none, got {self.dialogues}")


@dataclass(frozen=True)
class AnalyseConfig:
    """How an utterance is asked about."""

    teacher: str
    temperature: float = 0.0
    max_tokens: int = 48
    seed: int = 0
    context: int = 4
    """Utterances before it that are shown."""
    topics: tuple[str, ...] = field(default=_LABELS)
    """That an utterance may have."""
    system: str = "You analyse a talk between two people, one utterance at a time."
    user: str = (
        'They talk about: {question}\n{before}The utterance to analyse is {speaker}\'s: "{text}"\n'
        "1. Which topic has it? One of: {topics}\n"
        "2. Does it carry the talk further, with something that was not said before?\n"
        "3. Does it show that {speaker} understands the other's culture?\n"
    )
    form: str = "Answer in three lines: topic: (the topic), extends: (yes or no), understands: (yes or no)."
    structured: bool = False
    """Ask for JSON by a schema; for teachers that can."""
    form_json: str = 'Answer with JSON: {"topic": "...", "extends": "yes" or "no", "understands": "yes" or "no"}.'

    def __post_init__(self) -> None:
        if self.context < 0:
            raise ConfigError(f"context: must be at least 0, got {self.context}")


def sample(dialogues: Iterable[Dialogue], config: SampleConfig) -> list[Dialogue]:
    """So many whole dialogues of each culture, the same draw every time."""

    def place(dialogue: Dialogue) -> str:
        return hashlib.sha256(f"{config.seed}/{dialogue.id}".encode()).hexdigest()

    chosen: dict[str, list[Dialogue]] = {}
    for dialogue in sorted((d for d in dialogues if d.reject is None), key=place):
        own = chosen.setdefault(dialogue.culture, [])
        if len(own) < config.dialogues:
            own.append(dialogue)
    return sorted((d for own in chosen.values() for d in own), key=lambda d: d.id)


async def analyse(dialogue: Dialogue, generate: Generate, config: AnalyseConfig) -> list[Analysis]:
    """A row for each utterance, all asked about at the same time; without an answer that can be used, rejected."""
    return list(await asyncio.gather(*(_analyse(dialogue, k, generate, config) for k in range(len(dialogue.turns)))))


def analyse_prompt(dialogue: Dialogue, number: int, config: AnalyseConfig) -> list[Message]:
    """What the teacher is sent about one utterance."""
    turn = dialogue.turns[number]
    before = dialogue.turns[max(0, number - config.context) : number]
    said = "".join(f'{t.speaker} said: "{t.text}"\n' for t in before)
    user = config.user.format(
        question=dialogue.question, before=said, speaker=turn.speaker, text=turn.text, topics=", ".join(config.topics)
    )
    form = config.form_json if config.structured else config.form
    return [Message("system", config.system), Message("user", user + form)]


def parse_analysis(text: str) -> dict[str, str] | None:
    """The three answers; None if they are not there, each once, with nothing else beside them."""
    found: dict[str, str] = {}
    for line in filter(None, (line.strip() for line in text.splitlines())):
        name, _, said = line.partition(":")
        name, said = name.strip().lower(), said.strip().rstrip(".").lower()
        if name in found or said not in _ANSWERS.get(name, ()):
            return None
        found[name] = said
    return found if len(found) == len(_ANSWERS) else None


async def _analyse(dialogue: Dialogue, number: int, generate: Generate, config: AnalyseConfig) -> Analysis:
    turn = dialogue.turns[number]
    row = Analysis(
        id=f"{dialogue.id}/{number:02d}", dialogue_id=dialogue.id, seed_id=dialogue.seed_id, culture=dialogue.culture,
        speaker=turn.speaker, text=turn.text,
    )  # fmt: skip
    asked = analyse_prompt(dialogue, number, config)
    found, reject = await (_found_json if config.structured else _found)(asked, generate, config)
    if found is None:
        return replace(row, reject=reject)
    sort, _, kind = found["topic"].partition("/")
    return replace(
        row,
        topic=sort,
        kind=kind or None,
        extends=found["extends"] == "yes" if number else None,  # the first has nothing to go on from
        understands=found["understands"] == "yes",
    )


async def _found(
    asked: list[Message], generate: Generate, config: AnalyseConfig
) -> tuple[dict[str, str] | None, str | None]:
    """The answers, or why there are none."""
    answer = await generate(asked, Sampling(config.temperature, config.max_tokens, config.seed))
    if answer.finish_reason not in ("stop", "length"):
        return None, answer.finish_reason
    found = parse_analysis(answer.text)
    return found, None if found else "analysis not understood"


async def _found_json(asked: list[Message], generate: Generate, config: AnalyseConfig) -> tuple[Any, str | None]:
    """The same, asked for as JSON."""
    answer = await ask_json(generate, asked, Sampling(config.temperature, config.max_tokens, config.seed, _SCHEMA))
    return answer.value, answer.reject
