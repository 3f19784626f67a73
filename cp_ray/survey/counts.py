"""How many respondents of a country gave which answer: counts of the 50 questions in our wording.

The shipped counts are those of World Values Survey wave 7 for 17 countries (`data/README.md` has the
citation). A negative code (don't know, no answer, not asked, missing) is never an answer, and a question
that was not asked in a country has no distribution there.
"""

import difflib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from cp_ray.errors import SurveyError
from cp_ray.survey.items import AnswerShares, Item, code_of, shares_of
from cp_ray.survey.lines import lines, number, text
from cp_ray.survey.questions import QUESTIONS, Question

__all__ = ["COLUMNS", "SHIPPED", "Counts", "items", "read_counts"]

SHIPPED = Path(__file__).parent / "data" / "wvs7_answer_counts.csv"
"""The counts that come with the package."""

COLUMNS = ("country", "question", "code", "respondents")

_MOST = 10**9
"""Respondents; more are a slip, and would not fit the rows."""

Counts = Mapping[tuple[str, str], Mapping[int, int]]
"""Respondents by answer code, for each (country, question)."""


def read_counts(path: Path = SHIPPED) -> Counts:
    """Answer counts from a CSV file with the columns country, question, code, respondents.

    Raises:
        SurveyError: the file cannot be read, or a line breaks its rule.
    """
    counts: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    for where, line in lines(path):
        country, question = code_of(text(where, line, "country")), text(where, line, "question")
        code, respondents = number(where, line, "code"), number(where, line, "respondents")
        if not 0 <= respondents <= _MOST:
            raise SurveyError(f"{where}: respondents must not be negative, nor above {_MOST}, got {respondents}")
        if question not in QUESTIONS:
            near = difflib.get_close_matches(question, QUESTIONS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "take it out"
            raise SurveyError(f"{where}: question {question!r} is none of the {len(QUESTIONS)}; {hint}")
        if code > 0 and code not in (codes := QUESTIONS[question].scale.codes):
            raise SurveyError(
                f"{where}: code must be one of {', '.join(map(str, codes))}, or below 1 for no answer, got {code}"
            )
        cell = counts[country, question]
        if code in cell:
            raise SurveyError(f"{where} counts {country} {question} code {code} a second time; give each once")
        cell[code] = respondents
    return counts


def items(counts: Counts) -> tuple[Item, ...]:
    """All 50 questions, whoever was asked: which are held out does not hang on the file."""
    return tuple(Item(q.id, q.topic, q.text, q.scale.labels, dict(_answers(counts, q))) for q in QUESTIONS.values())


def _answers(counts: Counts, question: Question) -> list[tuple[str, AnswerShares]]:
    found = []
    for (country, id), cell in sorted(counts.items(), key=lambda entry: entry[0]):
        if id == question.id:
            valid = [cell.get(code, 0) for code in question.scale.codes]
            shares = shares_of(valid, sum(valid))
            if shares is not None:
                found.append((country, shares))
    return found
