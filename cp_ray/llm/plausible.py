"""What a scripted teacher says: answers of the form that was asked for, made from the request alone."""

import json
import re
from collections.abc import Sequence
from typing import Any

from cp_ray.llm.call import Sampling, request_key
from cp_ray.records import Message

__all__ = ["plausible"]


def plausible(messages: Sequence[Message], sampling: Sampling) -> str:
    """An answer of the form that was asked for (JSON, a list, a judgement, or talk), made from the request's hash."""
    said = messages[-1].content
    key = request_key("scripted", messages, sampling)
    draw = int(key, 16)
    if sampling.schema is not None:
        found = _augmented_json(said)
        return json.dumps(_of_schema(json.loads(sampling.schema), said, key) if found is None else found)
    if said.startswith("Survey:") and said.endswith("irrelevant to it?"):
        return ("entail", "entail", "contradict", "irrelevant")[draw % 4]
    if said.startswith('First: "'):
        return "yes" if draw % 8 else "no"
    augmented = _augmented(said)
    if augmented is not None:
        return augmented
    why = _REASONS[draw % len(_REASONS)]
    if "numbered list" in said:
        people = said.partition('egin each with "')[2].partition(" think that")[0] or "People"
        other = _REASONS[(draw // 7) % len(_REASONS)]
        return f"1. {people} think that it matters because {why}.\n2. {people} think that {other} counts as well."
    return f"I hold this view because {why}. That is how I have come to know it ({draw % 1000})."


def _of_schema(schema: dict[str, Any], said: str, key: str) -> Any:
    """JSON of the form asked for, made from the request's hash."""
    draw = int(key, 16)
    if "enum" in schema:  # the first is the likeliest
        return [*schema["enum"], schema["enum"][0]][draw % (len(schema["enum"]) + 1)]
    if schema["type"] == "object":
        return {name: _of_schema(part, said, key) for name, part in schema["properties"].items()}
    if schema["type"] == "array":
        return [_of_schema(schema["items"], said, key[k:] + key[:k]) for k in range(1, 3)]
    people = said.partition('begins with "')[2].partition(" think that")[0] or "People"
    return f"{people} think that {_REASONS[draw % len(_REASONS)]}, and they say so ({draw % 1000})."


def _augmented(said: str) -> str | None:
    """Wordings of a question, other words for a sentence's, or a translation: a line each."""
    one = re.match(r"Translate into (\w+): (?:\[\w+\] )?(.*)", said, re.DOTALL)
    if one is not None:
        return one[2] if one[1] == "English" else f"[{one[1]}] {one[2]}"
    found = _augmented_json(said)
    if found is None:
        return None
    if "words" in found:
        return "\n".join(f"{entry['number']}. {', '.join(entry['synonyms'])}" for entry in found["words"])
    lines = [line for lines in found.values() for line in lines]
    return "\n".join(f"{k}. {line}" for k, line in enumerate(lines, 1))


def _augmented_json(said: str) -> dict[str, list[Any]] | None:
    """The same as JSON: the question with a few words before it, the words that are known, the language's name."""
    question = re.match(r'Survey question: "(.*)"$', said, re.MULTILINE)
    if question is not None:
        asked = question[1][0].lower() + question[1][1:]
        return {"sentences": [frame.format(asked) for frame in _FRAMES]}
    listed: list[str] = re.findall(r"^\d+\. (.+)$", said, re.MULTILINE)
    if said.startswith('Sentence: "'):
        known = [_SYNONYMS.get(line.rpartition(" (")[0].lower(), ()) for line in listed]
        return {"words": [{"number": k, "synonyms": list(words)} for k, words in enumerate(known, 1)]}
    many = re.match(r"Translate (?:each line )?into (\w+)\..*?The first (\d+) lines", said, re.DOTALL)
    if many is None:
        return None
    lines, n = [f"[{many[1]}] {line}" for line in listed], int(many[2])
    return {"texts": lines[:n], "options": lines[n:]}


_FRAMES = (
    "In your opinion, {}",
    "What would you say: {}",
    "Please tell us, {}",
    "Thinking about it, {}",
    "As you see it, {}",
)

_SYNONYMS = {
    "work": ("labour",), "people": ("persons",), "country": ("nation",), "important": ("significant",),
    "children": ("kids",), "happen": ("occur",), "frequently": ("often",), "immigrants": ("migrants",),
    "elections": ("polls",), "voters": ("electors",), "parents": ("mother and father",), "job": ("position",),
    "jobs": ("positions",), "life": ("existence",), "effect": ("consequence", "impact"), "wife": ("spouse",),
    "society": ("community",), "live": ("reside",), "right": ("entitlement",), "government": ("state",),
}  # fmt: skip

_REASONS = (
    "family stands behind everything else",
    "trust grows slowly and breaks fast",
    "work gives a day its shape",
    "the old have seen more than we have",
    "a neighbour is nearer than any law",
    "freedom is worth some disorder",
    "children will live with what we decide",
)
