"""extract: the opinions that the delegate voiced, one by one."""

from dataclasses import dataclass

from cp_ray.cultures import CULTURES
from cp_ray.llm.call import Generate, Sampling
from cp_ray.records import Dialogue, Message, Opinion, Turn
from cp_ray.stages.text import read_list, trim_to_sentence

__all__ = ["ExtractConfig", "extract", "extract_prompt", "parse_opinions"]


@dataclass(frozen=True)
class ExtractConfig:
    """How opinions are taken from an utterance."""

    teacher: str
    temperature: float = 0.0
    max_tokens: int = 96
    min_words: int = 5
    """Shorter ones say nothing by themselves."""
    seed: int = 0
    system: str = "You take opinions out of what somebody said."
    user: str = (
        'A {adjective} person was asked "{question}" and said:\n{text}\n\n'
        "List the opinions in it. Write a numbered list, one short sentence each, "
        'beginning with "{people} think that". If there is no opinion in it, write: none'
    )


async def extract(dialogue: Dialogue, generate: Generate, config: ExtractConfig) -> list[Opinion]:
    """The opinions in all of the delegate's utterances, each a row."""
    rows: list[Opinion] = []
    for number, turn in enumerate(dialogue.turns):
        if turn.speaker != dialogue.delegate:
            continue
        sampling = Sampling(config.temperature, config.max_tokens, config.seed)
        answer = await generate(extract_prompt(dialogue, turn, config), sampling)
        if answer.finish_reason not in ("stop", "length"):
            rows.append(_row(dialogue, number, 0, "", answer.finish_reason))
            continue
        cut_off = answer.finish_reason == "length"
        found = parse_opinions(answer.text, config.min_words, cut_off=cut_off)
        rows += [_row(dialogue, number, k, text, reject) for k, (text, reject) in enumerate(found)]
    return rows


def extract_prompt(dialogue: Dialogue, turn: Turn, config: ExtractConfig) -> list[Message]:
    """What the teacher is sent about one utterance."""
    of = CULTURES[dialogue.culture]
    user = config.user.format(adjective=of.adjective, people=of.people, question=dialogue.question, text=turn.text)
    return [Message("system", config.system), Message("user", user)]


def parse_opinions(text: str, min_words: int, *, cut_off: bool) -> list[tuple[str, str | None]]:
    """Opinions and why each is set aside (None: it is not). There is always at least one entry.

    The last line of a text that was cut off is no whole opinion unless a sentence ends in it.
    """
    if text.strip().strip(".").lower() == "none":
        return [(text.strip(), "no opinion in the utterance")]
    entries = read_list(trim_to_sentence(text) if cut_off else text)
    if not entries:
        return [(text.strip(), "not a list")]
    return [(e, "too short" if len(e.split()) < min_words else None) for e in entries]


def _row(dialogue: Dialogue, turn: int, number: int, text: str, reject: str | None) -> Opinion:
    return Opinion(
        id=f"{dialogue.id}/{turn}/{number}",
        dialogue_id=dialogue.id,
        seed_id=dialogue.seed_id,
        culture=dialogue.culture,
        speaker=dialogue.delegate,
        claim=dialogue.claim,
        question=dialogue.question,
        text=text,
        reject=reject,
    )
