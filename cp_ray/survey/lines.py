"""The lines of a CSV file, whichever separator it has, with what is wrong told in one line."""

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cp_ray.errors import SurveyError

__all__ = ["columns", "lines", "number", "readable", "separator", "text"]

Line = Mapping[str, str | None]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever makes the file unreadable inside becomes one SurveyError."""
    try:
        yield
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SurveyError(f"survey: {path} cannot be read ({error}); give a CSV file in UTF-8") from error


def separator(header: str) -> str:
    """The character between columns: many European programs write semicolons."""
    return max(",;\t", key=header.count)


def columns(path: Path) -> list[str]:
    """The names in the first line.

    Raises:
        SurveyError: the file cannot be read.
    """
    with readable(path), path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        return next(csv.reader([header], delimiter=separator(header)), [])


def lines(path: Path) -> Iterator[tuple[str, Line]]:
    """Each line by its columns, and where it stands, as a message begins.

    Raises:
        SurveyError: the file cannot be read.
    """
    with readable(path), path.open(encoding="utf-8-sig", newline="") as file:
        between = separator(file.readline())
        file.seek(0)
        reader = csv.DictReader(file, delimiter=between, strict=True)
        for line in reader:
            yield f"survey: {path} line {reader.line_num}", line


def text(where: str, line: Line, column: str) -> str:
    """What stands in a column, without blanks around it and on one line.

    Raises:
        SurveyError: nothing stands there.
    """
    found = " ".join((line[column] or "").split())
    if not found:
        raise SurveyError(f"{where}: {column} must not be empty")
    return found


def number(where: str, line: Line, column: str) -> int:
    """The whole number in a column.

    Raises:
        SurveyError: it is none.
    """
    try:
        return int(line[column] or "")
    except ValueError as error:
        raise SurveyError(f"{where}: {column} must be a whole number, got {line[column]!r}") from error
