"""How many respondents of a country gave which answer: read, checked, and turned into distributions.

The shipped counts are those of World Values Survey wave 7 for 17 countries (`data/README.md` has the
citation). A negative code (don't know, no answer, not asked, missing) is never an answer, and a question
that was not asked in a country has no distribution there.
"""

import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cp_ray.errors import SurveyError
from cp_ray.survey.questions import Scale

__all__ = ["SHIPPED", "AnswerShares", "Counts", "answer_shares", "content_hash", "read_counts"]

SHIPPED = Path(__file__).parent / "data" / "wvs7_answer_counts.csv"
"""The counts that come with the package."""

_COLUMNS = ("country", "question", "code", "respondents")

Counts = Mapping[tuple[str, str], Mapping[int, int]]
"""Respondents by answer code, for each (country, question)."""


@dataclass(frozen=True, slots=True)
class AnswerShares:
    """A distribution over a scale's options."""

    shares: tuple[float, ...]
    respondents: int


def read_counts(path: Path = SHIPPED) -> Counts:
    """Answer counts from a CSV file with the columns country, question, code, respondents.

    Raises:
        SurveyError: the file cannot be read, a column is missing, or a line breaks its rule.
    """
    counts: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [c for c in _COLUMNS if c not in (reader.fieldnames or ())]
            if missing:
                raise SurveyError(
                    f"survey: {path} lacks the column {missing[0]!r}; it needs {', '.join(_COLUMNS)}, "
                    f"got {', '.join(reader.fieldnames or ()) or 'nothing'}"
                )
            for line in reader:
                code, respondents = _whole(path, reader.line_num, line, "code"), _respondents(path, reader, line)
                cell = counts[line["country"], line["question"]]
                if code in cell:
                    raise SurveyError(
                        f"survey: {path} line {reader.line_num} counts {line['country']} {line['question']} "
                        f"code {code} a second time; give each once"
                    )
                cell[code] = respondents
    except (OSError, UnicodeDecodeError) as error:
        raise SurveyError(f"survey: {path} cannot be read ({error}); give a CSV file in UTF-8") from error
    return counts


def content_hash(path: Path = SHIPPED) -> str:
    """The first 16 hex digits of the file's SHA-256, to tell one survey from another."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def answer_shares(counts: Counts, countries: Iterable[str], question: str, scale: Scale) -> AnswerShares | None:
    """The distribution of valid answers over the scale, each country weighing the same.

    Returns None where no country was asked.
    """
    asked = []
    for country in countries:
        cell = counts.get((country, question), {})
        valid = [cell.get(code, 0) for code in scale.codes]
        if sum(valid):
            asked.append(valid)
    if not asked:
        return None
    shares = [sum(valid[i] / sum(valid) for valid in asked) / len(asked) for i in range(len(scale.codes))]
    return AnswerShares(tuple(shares), sum(map(sum, asked)))


def _whole(path: Path, number: int, line: Mapping[str, str | None], column: str) -> int:
    try:
        return int(line[column] or "")
    except ValueError as error:
        raise SurveyError(
            f"survey: {path} line {number}: {column} must be a whole number, got {line[column]!r}"
        ) from error


def _respondents(path: Path, reader: "csv.DictReader[str]", line: Mapping[str, str | None]) -> int:
    respondents = _whole(path, reader.line_num, line, "respondents")
    if respondents < 0:
        raise SurveyError(f"survey: {path} line {reader.line_num}: respondents must not be negative, got {respondents}")
    return respondents
