"""Reads a test set, and says of every line that is not used why.

Nothing is dropped silently and nothing stops the reading: a line that cannot be used is an item with a reason, its file
and its number. So the counts of a run's manifest are those of the file.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cp_ray.cultures import Culture
from cp_ray.evals.moderation.families import moderation_chat
from cp_ray.evals.moderation.tasks import LABEL, Task
from cp_ray.records import Item

__all__ = ["EMPTY_LABEL", "read_task"]

EMPTY_LABEL = "empty label"
NO_LABEL = "no label"


def read_task(task: Task, path: Path, culture: Culture, *, rows: int | None, characters: int) -> list[Item]:
    """The items of a test set, an unusable line as one with a reason.

    Args:
        task: whose file it is.
        path: JSON Lines.
        culture: who is asked.
        rows: only so many lines from the beginning; None for all.
        characters: a longer text is cut there, for every model alike.
    """
    items: list[Item] = []
    ids: dict[str, int] = {}
    for number, line in _lines(path.read_bytes()):
        if rows is not None and len(items) == rows:
            break
        where = f"{path.name}:{number}"
        found, fault = _fields(task, line, ids, number)
        if fault is not None:
            items.append(Item(f"{task.id}/{number}", task.culture, task.id, (), (), source=where, reject=fault))
            continue
        text, label = found
        reverse = bool(number % 2)  # options from either end by turns, so that none gains by its place
        items.append(
            Item(
                f"{task.id}/{number}", task.culture, task.id,
                moderation_chat(culture, task.asks, text[:characters], reverse=reverse),
                task.asks.options, task.asks.options[task.labels.index(label)], where,
            )
        )  # fmt: skip
    return items


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, without blank ones. UTF-16, which begins with its mark, is read as well."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        data = data.decode("utf-16", errors="replace").encode()
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            yield number, line


def _fields(task: Task, line: bytes, ids: dict[str, int], number: int) -> tuple[tuple[str, str], str | None]:
    """Text and label, or what is wrong."""
    nothing = ("", "")
    try:
        row: Any = json.loads(line.decode())
    except UnicodeDecodeError:
        return nothing, "not UTF-8"
    except (ValueError, RecursionError):
        return nothing, "not JSON"
    if not isinstance(row, Mapping):
        return nothing, "no JSON object"
    if row.get("id") is not None:
        first = ids.setdefault(str(row["id"]), number)
        if first != number:
            return nothing, "id of an earlier line"
    text, label = row.get(task.text), row.get(LABEL)
    if not isinstance(text, str):
        return nothing, f"no text in {task.text!r}"
    if not text.strip():
        return nothing, "empty text"
    if label is None:
        return nothing, NO_LABEL
    label = str(label).strip()
    if not label:
        return nothing, EMPTY_LABEL
    if label not in task.labels:
        return nothing, f"unknown label {label[:40]!r}"
    # Half a surrogate is no text that could be stored.
    return (text.encode(errors="replace").decode(), label), None
