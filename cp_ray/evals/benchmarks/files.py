"""The benchmarks' files in a folder of the user's, as they are published.

gsm8k/train.jsonl, gsm8k/test.jsonl    lines with question and answer (the examples come from the first)
bbh/<task>.json                        {"examples": [{"input": …, "target": …}, …]}, any of the 27 tasks
"""

import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cp_ray.errors import ConfigError

__all__ = ["BBH", "GSM8K", "TASKS", "Benchmark", "read_benchmarks"]

GSM8K, BBH = "gsm8k", "bbh"

_NAMES = """
    boolean_expressions causal_judgement date_understanding disambiguation_qa dyck_languages formal_fallacies
    geometric_shapes hyperbaton logical_deduction_five_objects logical_deduction_seven_objects
    logical_deduction_three_objects movie_recommendation multistep_arithmetic_two navigate object_counting
    penguins_in_a_table reasoning_about_colored_objects ruin_names salient_translation_error_detection snarks
    sports_understanding temporal_sequences tracking_shuffled_objects_five_objects
    tracking_shuffled_objects_seven_objects tracking_shuffled_objects_three_objects web_of_lies word_sorting
"""
TASKS = frozenset(_NAMES.split())
"""Of BBH, as its files are called."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One task of lm-evaluation-harness, and its data here."""

    name: str
    """`gsm8k` or `bbh/<task>`."""
    test: Path
    train: Path | None
    """With the examples that are shown before a question; None where there are none."""
    items: int
    content: str
    """Of all of it, as a hash."""

    @property
    def area(self) -> str:
        """`gsm8k` or `bbh`."""
        return self.name.partition("/")[0]


def read_benchmarks(root: Path) -> tuple[Benchmark, ...]:
    """What a folder holds.

    Raises:
        ConfigError: there is none of the files, one of a pair is missing, or one is not of its form.
    """
    found = [*_gsm8k(root / GSM8K), *_bbh(root / BBH)]
    if not found:
        raise ConfigError(
            f"benchmarks: {str(root)!r} has neither gsm8k/test.jsonl nor bbh/<task>.json; give a folder with the "
            "published files"
        )
    return tuple(found)


def _gsm8k(folder: Path) -> Iterator[Benchmark]:
    parts = [folder / "train.jsonl", folder / "test.jsonl"]
    there = [path for path in parts if path.is_file()]
    if not there:
        return
    if len(there) < len(parts):
        lacking = next(path for path in parts if path not in there)
        raise ConfigError(f"benchmarks: {lacking} is missing; GSM8K takes both train.jsonl and test.jsonl")
    for path in parts:
        lines = _text(path).split("\n")  # a text may have other ends of lines in it
        rows = [
            (f"{path} line {n}", _json(line, f"{path} line {n}")) for n, line in enumerate(lines, 1) if line.strip()
        ]
        _check(path, rows, ("question", "answer"))
    yield Benchmark(GSM8K, parts[1], parts[0], len(rows), _hash(parts))


def _bbh(folder: Path) -> Iterator[Benchmark]:
    for path in sorted(folder.glob("*.json")):
        if path.stem not in TASKS:
            near = difflib.get_close_matches(path.stem, sorted(TASKS), 1)
            hint = f"did you mean {near[0]!r}" if near else "take it away"
            raise ConfigError(f"benchmarks: {path} is none of BBH's {len(TASKS)} tasks; {hint}")
        content = _json(_text(path), str(path))
        rows = content.get("examples") if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise ConfigError(f"benchmarks: {path} must be an object with a list 'examples', as published")
        _check(path, [(f"{path} example {n}", row) for n, row in enumerate(rows, 1)], ("input", "target"))
        yield Benchmark(f"{BBH}/{path.stem}", path, None, len(rows), _hash([path]))


def _check(path: Path, rows: Sequence[tuple[str, Any]], fields: Sequence[str]) -> None:
    if not rows:
        raise ConfigError(f"benchmarks: {path} is empty; give the published file")
    for where, row in rows:
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) and row[name] for name in fields):
            raise ConfigError(f"benchmarks: {where} must have the texts {' and '.join(fields)}, got {str(row)[:80]}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"benchmarks: {path} cannot be read ({error}); give the published file in UTF-8") from error


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"benchmarks: {where} is not JSON ({error}); give the published file") from error


def _hash(paths: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).hexdigest()
