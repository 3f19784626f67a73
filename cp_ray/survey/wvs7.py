"""The respondents of World Values Survey wave 7: the official CSV file, one person a line, weighted.

Read are the country (`B_COUNTRY_ALPHA`), the weight (`W_WEIGHT`) and the 50 questions, of some 600 columns. A negative
code is never an answer (-1 don't know, -2 no answer, -4 not asked, -5 missing), and a question that was not asked in
a country gives nothing there. The shares are of weights; the respondents are people, counted.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cp_ray.errors import SurveyError
from cp_ray.survey.items import AnswerShares, Item, code_of, shares_of
from cp_ray.survey.lines import columns, separator
from cp_ray.survey.questions import QUESTIONS, Question

__all__ = ["COLUMNS", "read_wvs7"]

_COUNTRY, _WEIGHT = "B_COUNTRY_ALPHA", "W_WEIGHT"
COLUMNS = (_COUNTRY, _WEIGHT)
"""Beside these, at least one of the questions."""


def read_wvs7(path: Path) -> tuple[Item, ...]:
    """All 50 questions with the weighted answers of each country; a question without a column has none.

    Raises:
        SurveyError: the file cannot be read, a weight or a country is missing, or a value is not on its scale.
    """
    asked = [id for id in columns(path) if id in QUESTIONS]
    table = _table(path, asked)
    _check_people(path, table)
    return tuple(
        Item(q.id, q.topic, q.text, q.scale.labels, dict(_answers(path, table, q)) if q.id in asked else {})
        for q in QUESTIONS.values()
    )


def _table(path: Path, asked: list[str]) -> Any:
    """The country, the weight and the answers as an Arrow table; what stands there otherwise is not even parsed."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    types = {_COUNTRY: pa.string(), _WEIGHT: pa.string(), **dict.fromkeys(asked, pa.float64())}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            between = separator(file.readline())
        table = csv.read_csv(
            path,
            parse_options=csv.ParseOptions(delimiter=between),
            convert_options=csv.ConvertOptions(
                include_columns=list(types), column_types=types, null_values=["", " ", "NA"], strings_can_be_null=True
            ),
        )
        # Where a semicolon stands between columns, a comma may stand within numbers.
        weights = pc.cast(pc.replace_substring(table[_WEIGHT], ",", "."), pa.float64())
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise SurveyError(
            f"survey: {path} cannot be read as WVS-7's respondents ({' '.join(str(error).split())}); "
            "give the official CSV file"
        ) from error
    return table.set_column(table.column_names.index(_WEIGHT), _WEIGHT, weights)


def _check_people(path: Path, table: Any) -> None:
    import pyarrow.compute as pc

    countries, weights = table[_COUNTRY], table[_WEIGHT]
    _tell_first(path, countries, pc.is_null(countries), f"{_COUNTRY} must not be empty")
    usable = pc.and_(pc.is_finite(weights), pc.greater_equal(weights, 0.0))
    wrong = pc.invert(pc.fill_null(usable, False))
    _tell_first(path, weights, wrong, f"{_WEIGHT} must be a number that is not negative")


def _answers(path: Path, table: Any, question: Question) -> Iterator[tuple[str, AnswerShares]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    values, codes = table[question.id], pa.array([float(code) for code in question.scale.codes])
    answered = pc.fill_null(pc.greater_equal(values, 0.0), False)
    on_scale = pc.is_in(values, value_set=codes)
    none = pc.fill_null(pc.less(values, 0.0), True)
    rule = f"{question.id} must be negative or one of {', '.join(map(str, question.scale.codes))}"
    _tell_first(path, values, pc.invert(pc.or_(on_scale, none)), rule)
    people = pa.table({"country": table[_COUNTRY], "code": values, "weight": table[_WEIGHT]}).filter(answered)
    # On threads the weights would be added up in another order each time, and the survey's hash hangs on the last bit.
    found = people.group_by(["country", "code"], use_threads=False).aggregate([("weight", "sum"), ("weight", "count")])
    weights: dict[str, dict[float, float]] = {}
    counted: dict[str, int] = {}
    for line in found.sort_by([("country", "ascending"), ("code", "ascending")]).to_pylist():
        country = code_of(line["country"])
        weights.setdefault(country, {})[line["code"]] = line["weight_sum"]
        counted[country] = counted.get(country, 0) + line["weight_count"]
    for country, by_code in weights.items():
        shares = shares_of([by_code.get(float(code), 0.0) for code in question.scale.codes], counted[country])
        if shares is not None:
            yield country, shares


def _tell_first(path: Path, values: Any, wrong: Any, rule: str) -> None:
    """Raise for the first value that is wrong."""
    import pyarrow as pa
    import pyarrow.compute as pc

    at = pc.index(wrong, pa.scalar(True)).as_py()
    if at >= 0:
        raise SurveyError(f"survey: {path} line {at + 2}: {rule}, got {values[at].as_py()!r}")
