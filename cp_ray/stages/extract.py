"""extract: the opinions that were voiced in a dialogue, one by one."""

import asyncio
from dataclasses import dataclass, replace

from cp_ray.cultures import Culture, of
from cp_ray.llm.call import Generate, Sampling
from cp_ray.llm.structured import ask_json
from cp_ray.records import Dialogue, Message, Opinion, Turn
from cp_ray.stages.prompts import OPINIONS
from cp_ray.stages.text import article, read_list, trim_to_sentence

__all__ = ["ExtractConfig", "extract", "extract_prompt", "parse_opinions"]


@dataclass(frozen=True)
class ExtractConfig:
    """How opinions are taken from an utterance."""

    teacher: str
    cultures: tuple[Culture, ...]
    """Of the dialogues."""
    temperature: float = 0.0
    max_tokens: int = 96
    min_words: int = 5
    """Shorter ones say nothing by themselves."""
    seed: int = 0
    system: str = "You list the opinions in what somebody said, one short sentence each."
    user: str = (
        '{a_culture} person was asked "{question}" and said: "{text}"\n'
        'Write a numbered list of the opinions in it. Begin each with "{people} think that". '
        "If there is no opinion in it, write: none"
    )
    structured: bool = False
    """Ask for JSON by a schema, without the example; for teachers that can."""
    user_json: str = (
        '{a_culture} person was asked "{question}" and said: "{text}"\n'
        'List the opinions in it, each as one short sentence that begins with "{people} think that". Answer with '
        'JSON: {{"opinions": [...]}}, with an empty list if there is no opinion in it.'
    )
    example_question: str = "Is it good to eat with the whole family?"
    example_text: str = (
        "Well, when we sit at one table we hear what happened to each of us, and the children learn to wait their turn."
    )
    example_list: tuple[str, ...] = (
        "a meal at one table lets a family hear about each other's day",
        "children learn patience at the table",
    )


async def extract(dialogue: Dialogue, generate: Generate, config: ExtractConfig) -> list[Opinion]:
    """The opinions of those who are bound to the survey's answer, each a row: the delegate's, within a culture both's.

    The utterances are read at the same time.
    """
    bound = (dialogue.delegate, dialogue.contact) if dialogue.setting == "in" else (dialogue.delegate,)
    own = [(k, turn) for k, turn in enumerate(dialogue.turns) if turn.speaker in bound]
    found = await asyncio.gather(*(_extract_turn(dialogue, k, turn, generate, config) for k, turn in own))
    return [row for rows in found for row in rows]


async def _extract_turn(
    dialogue: Dialogue, number: int, turn: Turn, generate: Generate, config: ExtractConfig
) -> list[Opinion]:
    sampling = Sampling(config.temperature, config.max_tokens, config.seed)
    if config.structured:
        found = await _listed(extract_prompt(dialogue, turn, config), sampling, generate, config)
        return [_row(dialogue, turn, number, k, text, reject) for k, (text, reject) in enumerate(found)]
    answer = await generate(extract_prompt(dialogue, turn, config), sampling)
    if answer.finish_reason not in ("stop", "length"):
        return [_row(dialogue, turn, number, 0, "", answer.finish_reason)]
    cut_off = answer.finish_reason == "length"
    found = parse_opinions(answer.text, config.min_words, config.example_list, cut_off=cut_off)
    return [_row(dialogue, turn, number, k, text, reject) for k, (text, reject) in enumerate(found)]


async def _listed(
    messages: list[Message], sampling: Sampling, generate: Generate, config: ExtractConfig
) -> list[tuple[str, str | None]]:
    """Opinions and why each is set aside, asked for as JSON."""
    answer = await ask_json(generate, messages, replace(sampling, schema=OPINIONS))
    if answer.reject is not None:
        return [("", answer.reject)]
    entries = [entry.strip() for entry in answer.value["opinions"]]
    return [(entry, _reject(entry, config.min_words, ())) for entry in entries] or [("", "no opinion in the utterance")]


def extract_prompt(dialogue: Dialogue, turn: Turn, config: ExtractConfig) -> list[Message]:
    """What the teacher is sent about one utterance."""
    delegates = of(config.cultures, dialogue.culture)
    if config.structured:
        asked = _asked(config.user_json, delegates, dialogue.question, turn.text)
        return [Message("system", config.system), Message("user", asked)]
    entries = [f"{k}. {delegates.people} think that {e}." for k, e in enumerate(config.example_list, 1)]
    return [
        Message("system", config.system),
        Message("user", _asked(config.user, delegates, config.example_question, config.example_text)),
        Message("assistant", "\n".join(entries)),
        Message("user", _asked(config.user, delegates, dialogue.question, turn.text)),
    ]


def _asked(template: str, culture: Culture, question: str, text: str) -> str:
    who = article(culture.adjective)
    return template.format(a_culture=who[0].upper() + who[1:], question=question, text=text, people=culture.people)


def parse_opinions(
    text: str, min_words: int, example: tuple[str, ...] = (), *, cut_off: bool
) -> list[tuple[str, str | None]]:
    """Opinions and why each is set aside (None: it is not). There is always at least one entry.

    The last line of a text that was cut off is no whole opinion unless a sentence ends in it. Weak teachers repeat
    the example that they were shown.
    """
    if text.strip().strip(".").lower() == "none":
        return [(text.strip(), "no opinion in the utterance")]
    entries = read_list(trim_to_sentence(text) if cut_off else text)
    if not entries:
        return [(text.strip(), "not a list")]
    return [(entry, _reject(entry, min_words, example)) for entry in entries]


def _reject(entry: str, min_words: int, example: tuple[str, ...]) -> str | None:
    if any(shown in entry for shown in example):
        return "repeats the example"
    return "too short" if len(entry.split()) < min_words else None


def _row(dialogue: Dialogue, turn: Turn, place: int, number: int, text: str, reject: str | None) -> Opinion:
    return Opinion(
        id=f"{dialogue.id}/{place}/{number}",
        dialogue_id=dialogue.id,
        seed_id=dialogue.seed_id,
        culture=dialogue.culture,
        speaker=turn.speaker,
        claim=dialogue.claim,
        question=dialogue.question,
        text=text,
        reject=reject,
    )
