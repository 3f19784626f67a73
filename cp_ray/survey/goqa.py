"""GlobalOpinionQA (Durmus et al. 2023, arXiv:2306.16388): questions of Pew's Global Attitudes Survey and of the WVS.

As published (Hugging Face: Anthropic/llm_global_opinions), as CSV, JSON Lines or Parquet with the columns question,
selections, options and source. `selections` gives each country's shares of the options, in the same order, printed as
a Python mapping; `options` is printed as a Python list.

What is not an answer (DK/Refused, No answer, Missing; ...) is dropped, and the rest shares 1. The file does not tell
how many people were asked. It has lines without a question, and questions that stand there several times: the former
say nothing, and of the latter the first counts.
"""

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cp_ray.errors import SurveyError
from cp_ray.survey.items import AnswerShares, Item, code_of, shares_of, short_hash
from cp_ray.survey.lines import lines

__all__ = ["COLUMNS", "read_goqa"]

COLUMNS = ("question", "selections", "options", "source")

_NO_ANSWER = re.compile(
    r"(other )?(missing|not asked|not applicable|no answer|no response|don'?t know|do not know|dk|refused|unknown)"
    r"\s*([;:/,(\[].*)?|not asked in survey",
    re.IGNORECASE | re.DOTALL,
)
_DEFAULTDICT = re.compile(r"\s*defaultdict\(\s*<class '\w+'>\s*,\s*(.*)\)\s*", re.DOTALL)


def read_goqa(path: Path) -> tuple[Item, ...]:
    """The questions that have at least two answers and a country that gave them.

    Raises:
        SurveyError: the file cannot be read, or a line breaks its rule.
    """
    found: dict[str, Item] = {}
    for where, line in _lines(path):
        item = _item(where, line)
        if item is not None:
            found.setdefault(item.question, item)
    return tuple(found.values())


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        with path.open("rb") as file:
            start = file.read(4096)
        if start.startswith(b"PAR1"):
            yield from _parquet_lines(path)
        elif start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
            yield from _json_lines(path)
        else:
            yield from lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SurveyError(f"survey: {path} cannot be read ({error}); give CSV, JSON Lines or Parquet") from error


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, text in enumerate(file, 1):
            where = f"survey: {path} line {number}"
            if not text.strip():
                continue
            try:
                line = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise SurveyError(f"{where}: must be a JSON object ({error})") from error
            if not isinstance(line, dict) or any(c not in line for c in COLUMNS):
                raise SurveyError(f"{where}: must be a JSON object with {', '.join(COLUMNS)}, got {_shown(line)}")
            yield where, line


def _parquet_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path, columns=list(COLUMNS)).to_pylist()
        missing = [c for c in COLUMNS if rows and c not in rows[0]]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SurveyError(f"survey: {path} cannot be read ({' '.join(str(error).split())}); give Parquet") from error
    if missing:
        raise SurveyError(f"survey: {path} lacks the column {missing[0]!r}; it needs {', '.join(COLUMNS)}")
    for number, row in enumerate(rows, 1):
        yield f"survey: {path} row {number}", row


def _item(where: str, line: Mapping[str, Any]) -> Item | None:
    question, source = (" ".join(str(line[c] or "").split()) for c in ("question", "source"))
    if not question:
        return None
    if not source:
        raise SurveyError(f"{where}: source must not be empty; it is GAS or WVS")
    options = _options(where, line["options"])
    kept = [k for k, option in enumerate(options) if not _NO_ANSWER.fullmatch(option.replace("’", "'"))]
    shown = tuple(options[k] for k in kept)
    if len(set(shown)) < len(shown):
        raise SurveyError(f"{where}: options must differ, got {_shown(list(shown))}")
    answers: dict[str, AnswerShares] = {}
    for country, shares in _selections(where, line["selections"]):
        if len(shares) != len(options):
            raise SurveyError(
                f"{where}: selections of {country!r} must be one for each of {len(options)} options, got {len(shares)}"
            )
        valid = shares_of([shares[k] for k in kept], 0)
        if valid is not None:
            answers.setdefault(code_of(country), valid)
    return (
        Item(f"{source}-{short_hash(question)}", source, question, shown, answers)
        if len(kept) > 1 and answers
        else None
    )


def _options(where: str, value: Any) -> list[str]:
    found = _literal(value)
    if not isinstance(found, (list, tuple)) or not found:
        raise SurveyError(f"{where}: options must be a list of texts, got {_shown(value)}")
    # A scale of numbers is printed as 1.0, 2.0, ...
    named = [str(int(o)) if isinstance(o, float) and o.is_integer() else " ".join(str(o).split()) for o in found]
    if "" in named:
        raise SurveyError(f"{where}: options must not be empty, got {_shown(value)}")
    return named


def _selections(where: str, value: Any) -> Iterator[tuple[str, list[float]]]:
    if isinstance(value, str) and (inner := _DEFAULTDICT.fullmatch(value)):
        value = inner[1]
    found = _literal(value)
    if isinstance(found, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in found):
        found = dict(found)  # as Arrow gives a map
    if not isinstance(found, Mapping):
        raise SurveyError(f"{where}: selections must map countries to shares, got {_shown(value)}")
    for country, shares in found.items():
        if shares is None:
            continue  # as Arrow gives a country that has no entry
        if not isinstance(country, str) or not country.strip():
            raise SurveyError(f"{where}: selections must name countries, got {_shown(country)}")
        if not isinstance(shares, (list, tuple)) or not all(_is_share(share) for share in shares):
            raise SurveyError(f"{where}: selections of {country!r} must be shares from 0 to 1, got {_shown(shares)}")
        yield country, [float(share) for share in shares]


def _is_share(value: Any) -> bool:
    # A published share may lie above 1 by its rounding.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1.01


def _literal(value: Any) -> Any:
    """What a printed Python literal stands for; None if it is none. It is parsed, never run."""
    if not isinstance(value, str):
        return value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own remarks on a literal's style
            return ast.literal_eval(value.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
