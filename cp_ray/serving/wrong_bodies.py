"""What is wrong with a body, from what pydantic says of it."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["told"]

_LONGEST = 200
"""Characters of a field's name that are repeated: clients make them up."""


def told(errors: Sequence[Mapping[str, Any]], body: Any) -> tuple[str, str]:
    """The field that is wrong, written as OpenAI writes it (`messages[0].content[1].type`), and why.

    Of a field that may have several forms pydantic says for each of them why it is not that one. The form that was
    meant is the one that fits the best: it is wrong further inside, or at least of the right kind.
    """
    paths = [_path(error, body) for error in errors]
    forms = [(path, error) for path, error in zip(paths, errors, strict=True) if path[: len(paths[0])] == paths[0]]
    path, error = max(forms, key=lambda form: (len(form[0]), not form[1]["type"].endswith("_type")))
    written = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return written.removeprefix(".")[:_LONGEST], error["msg"]


def _path(error: Mapping[str, Any], body: Any) -> tuple[int | str, ...]:
    """Names and indices of what the client sent, without pydantic's names of forms among them."""
    place, *parts = error["loc"]
    if place != "body":
        return tuple(parts)
    path: list[int | str] = []
    for k, part in enumerate(parts):
        missing = error["type"] == "missing" and k == len(parts) - 1
        listed = isinstance(body, list) and isinstance(part, int)
        if missing or listed or (isinstance(body, dict) and part in body):
            path.append(part)
            body = None if missing else body[part]
    return tuple(path)
