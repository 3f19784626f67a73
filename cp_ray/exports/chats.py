"""Training rows as chats in files: OpenAI's JSON Lines, and ShareGPT's JSON."""

import json
from collections.abc import Iterable
from typing import Any

from cp_ray.records import Example

__all__ = ["openai_lines", "sharegpt_text"]

_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}

_BREAKS = {c: f"\\u{ord(c):04x}" for c in "\u0085\u2028\u2029"}
"""Line breaks to some readers, though JSON lets them stand within a string."""


def openai_lines(examples: Iterable[Example]) -> str:
    """A line of JSON for each chat, as OpenAI's fine-tuning takes it."""
    return "".join(
        f"{_json({'messages': [{'role': m.role, 'content': m.content} for m in example.messages]})}\n"
        for example in examples
    )


def sharegpt_text(examples: Iterable[Example]) -> str:
    """A JSON list with an object for each chat: `id`, and `conversations` of `from` (system, human, gpt) and `value`.

    Raises:
        KeyError: a message has a role that ShareGPT has no name for.
    """
    rows = (
        _json({"id": e.id, "conversations": [{"from": _SHAREGPT[m.role], "value": m.content} for m in e.messages]})
        for e in examples
    )
    return "[\n" + ",\n".join(rows) + "\n]\n"


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    for broken, escaped in _BREAKS.items():
        text = text.replace(broken, escaped)
    return text
