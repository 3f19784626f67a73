"""Answers of a given form: asked for by a JSON Schema, parsed strictly, mended once by asking again."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cp_ray.llm.call import Completion, Generate, Sampling
from cp_ray.records import Message

__all__ = ["AGAIN", "Structured", "ask_json", "schema_text"]

AGAIN = "That is not the JSON that was asked for: {why}. Write the JSON alone."
"""What is said after an answer of another form."""

NOT_JSON = "not the JSON asked for"


@dataclass(frozen=True, slots=True)
class Structured:
    """A value of the form that was asked for, or the reason why there is none."""

    value: Any = None
    reject: str | None = None
    answer: Completion | None = field(default=None, compare=False)
    """What the value was read from."""


def schema_text(schema: Mapping[str, Any]) -> str:
    """A schema as it travels in `Sampling` and is hashed into a request's address."""
    return json.dumps(schema, sort_keys=True)


async def ask_json(
    generate: Generate, messages: Sequence[Message], sampling: Sampling, again: str = AGAIN
) -> Structured:
    """Ask for JSON by `sampling.schema`; an answer of another form is shown to the model once with what is wrong.

    An answer that was cut off is not mended: with the same limit it would be cut off again.
    """
    answer = await generate(messages, sampling)
    if answer.finish_reason not in ("stop", "length"):
        return Structured(reject=answer.finish_reason)
    value, why = _parsed(answer.text, sampling.schema)
    if why is None:
        return Structured(value, answer=answer)
    if answer.finish_reason == "length":
        return Structured(reject="cut off")
    shown = [Message("assistant", answer.text), Message("user", again.format(why=why))]
    mended = await generate([*messages, *shown], replace(sampling, seed=sampling.seed + 1))
    if mended.finish_reason not in ("stop", "length"):
        return Structured(reject=mended.finish_reason)
    value, why = _parsed(mended.text, sampling.schema)
    return Structured(value, answer=mended) if why is None else Structured(reject=NOT_JSON)


def _parsed(text: str, schema: str | None) -> tuple[Any, str | None]:
    """The value, and what is wrong with it."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate could not be stored
    except (ValueError, RecursionError) as error:
        return None, f"it cannot be parsed ({error})"
    if schema is None:
        return value, None
    wrong = next(_validator(schema).iter_errors(value), None)
    return value, None if wrong is None else f"{wrong.json_path} {wrong.message}"[:200]


@functools.cache
def _validator(schema: str) -> Any:
    import jsonschema

    kind = jsonschema.Draft202012Validator
    plain = json.loads(schema)
    kind.check_schema(plain)
    return kind(plain)
