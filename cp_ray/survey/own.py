"""A user's own survey: a CSV file with a line for each question and country.

    question,options,country,answers,id,topic
    Is tea better than coffee?,Yes|Hard to say|No,DEU,120|30|310,tea,drinks

`options` stand in the order of the scale. `answers` are as many numbers, in the same order: how many people gave each
option, or shares of 1. Numbers that are not whole are shares or weighted counts; they do not tell how many people
were asked. `id` and `topic` may be left out.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

from cp_ray.errors import SurveyError
from cp_ray.survey.items import AnswerShares, Item, code_of, shares_of, short_hash
from cp_ray.survey.lines import Line, lines, text

__all__ = ["COLUMNS", "read_own"]

COLUMNS = ("question", "options", "country", "answers")
_MOST = 10**9
"""People; more are a slip, and would not fit the rows."""


@dataclass
class _Growing:
    """A question while its countries are read."""

    topic: str
    question: str
    options: tuple[str, ...]
    answers: dict[str, AnswerShares] = field(default_factory=dict)


def read_own(path: Path) -> tuple[Item, ...]:
    """The questions in the order of the file.

    Raises:
        SurveyError: the file cannot be read, or a line breaks its rule.
    """
    found: dict[str, _Growing] = {}
    worded: dict[str, str] = {}
    for where, line in lines(path):
        question = text(where, line, "question")
        id = _optional(line, "id") or f"own-{short_hash(question)}"
        topic = _optional(line, "topic") or "own questions"
        options = _options(where, line)
        if worded.setdefault(question, id) != id:
            raise SurveyError(f"{where}: the question of {id!r} is that of {worded[question]!r}; give it one id")
        item = found.setdefault(id, _Growing(topic, question, options))
        if (item.topic, item.question, item.options) != (topic, question, options):
            raise SurveyError(
                f"{where}: {id!r} has another question, topic or options than before; "
                "an id stands for one question with one scale"
            )
        country = code_of(text(where, line, "country"))
        if country in item.answers:
            raise SurveyError(f"{where}: the answers of {country} to {id!r} stand there a second time; give each once")
        item.answers[country] = _answers(where, line, options)
    return tuple(Item(id, g.topic, g.question, g.options, g.answers) for id, g in found.items())


def _optional(line: Line, column: str) -> str:
    return " ".join((line.get(column) or "").split())


def _options(where: str, line: Line) -> tuple[str, ...]:
    options = tuple(" ".join(part.split()) for part in text(where, line, "options").split("|"))
    if len(options) < 2 or "" in options or len(set(options)) < len(options):
        raise SurveyError(f"{where}: options must be at least two different ones with | between, got {options!r}")
    return options


def _answers(where: str, line: Line, options: tuple[str, ...]) -> AnswerShares:
    given = text(where, line, "answers").split("|")
    try:
        numbers = [float(part) for part in given]
    except ValueError as error:
        raise SurveyError(f"{where}: answers must be numbers with | between, got {line['answers']!r}") from error
    if len(numbers) != len(options):
        raise SurveyError(f"{where}: answers must be one for each of {len(options)} options, got {len(numbers)}")
    if not all(0 <= n <= _MOST for n in numbers) or not math.fsum(numbers):
        raise SurveyError(f"{where}: answers must not be negative, nor all 0, got {line['answers']!r}")
    total = math.fsum(numbers)
    people = int(total) if total > 1 and all(n.is_integer() for n in numbers) else 0
    shares = shares_of(numbers, people)
    if shares is None:
        raise SurveyError(f"{where}: answers must not be all 0, got {line['answers']!r}")
    return shares
