"""What OpenAI's documentation asks of a file of chats for supervised fine-tuning, checked before it is uploaded."""

import json
import reprlib
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["MAX_TOKENS", "MIN_ROWS", "check_openai"]

MIN_ROWS = 10
"""Chats that a file must hold."""
MAX_TOKENS = 65_536
"""Of a chat; what the models of 2024 and later are trained with. Longer ones are cut off."""

_ROLES = ("system", "user", "assistant")
_KEYS = ("role", "content", "name", "weight")


def check_openai(lines: Iterable[bytes | str], *, least: int = MIN_ROWS) -> list[str]:
    """What is wrong with the lines of a file, a line of text for each breach; empty where it can be uploaded.

    `least`: chats that it must hold; the rule for a file to train on, which validation files need not keep.

    Tokens are counted roughly, as four bytes of UTF-8 each. Chats of text are meant: tools and pictures are told as
    unknown.
    """
    found: list[str] = []
    rows = 0
    for line in lines:
        rows += 1
        found += [f"line {rows}: {breach}" for breach in _breaches(line)]
    if rows < least:
        found.append(f"at least {least} chats are needed, got {rows}")
    return found


def _breaches(line: bytes | str) -> Iterator[str]:
    try:
        text = line.decode() if isinstance(line, bytes) else line
    except UnicodeDecodeError as error:
        yield f"is not UTF-8 (byte {error.start + 1})"
        return
    if not text.strip():
        yield "is empty"
        return
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        yield f"is not JSON ({error.msg}, character {error.pos + 1})"
    except (ValueError, RecursionError):
        yield "cannot be read: a number is too long, or brackets are too deep"
    else:
        yield from _row(row)


def _row(row: Any) -> Iterator[str]:
    if not isinstance(row, dict):
        yield f"must be an object with the key 'messages', got {_shown(row)}"
        return
    yield from (f"unknown key {_shown(key)}; only 'messages' is known" for key in row if key != "messages")
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        yield f"messages must be a list of at least one message, got {_shown(messages)}"
        return
    for number, message in enumerate(messages, 1):
        yield from (f"message {number}: {breach}" for breach in _message(message))
    last = messages[-1]
    if not isinstance(last, dict) or last.get("role") != "assistant":
        yield "the last message must be the assistant's"
    tokens = _tokens(messages)
    if tokens > MAX_TOKENS:
        yield f"must have at most {MAX_TOKENS} tokens, has about {tokens}"


def _message(message: Any) -> Iterator[str]:
    if not isinstance(message, dict):
        yield f"must be an object with role and content, got {_shown(message)}"
        return
    yield from (f"unknown key {_shown(key)}; known are {', '.join(_KEYS)}" for key in message if key not in _KEYS)
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        yield f"role must be {', '.join(_ROLES[:-1])} or {_ROLES[-1]}, got {_shown(role)}"
    if not isinstance(content, str) or not content.strip():
        yield f"content must be text that is not empty, got {_shown(content)}"
    elif not _is_unicode(content):
        yield "content must be Unicode, and holds half of a surrogate pair"
    if "name" in message and not isinstance(message["name"], str):
        yield f"name must be text, got {_shown(message['name'])}"
    if "weight" in message:
        weight = message["weight"]
        if role != "assistant" or type(weight) not in (int, float) or weight not in (0, 1):
            yield f"weight must be 0 or 1, on an assistant's message, got {_shown(weight)} on {_shown(role)}"


def _tokens(messages: list[Any]) -> int:
    """About four bytes each, and a few for each message's frame."""
    texts = [m["content"] for m in messages if isinstance(m, dict) and isinstance(m.get("content"), str)]
    return 3 + sum(3 + len(text.encode("utf-8", "surrogatepass")) // 4 for text in texts)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _shown(value: Any) -> str:
    return _REPR.repr(value)


_REPR = reprlib.Repr()
"""Of one line, and not too long, whatever the value."""
_REPR.maxstring = _REPR.maxother = 60
