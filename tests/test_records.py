import dataclasses
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_ray import records
from cp_ray.arrow import from_table, replaced, schema, to_table
from cp_ray.records import Dialogue, Example, Opinion, Prediction, Score, Seed, TrainPoint

# What Arrow's columns can hold; and not-a-number would not equal itself.
st.register_type_strategy(str, st.text(st.characters(exclude_categories=["Cs"])))
st.register_type_strategy(float, st.floats(allow_nan=False))
st.register_type_strategy(int, st.integers(-(2**63), 2**63 - 1))

ROWS = (Seed, Dialogue, Opinion, Example, TrainPoint, Prediction, Score)


@pytest.mark.parametrize("row", ROWS)
def test_rows_come_back_as_they_went(row: type) -> None:
    @given(st.lists(st.from_type(row), max_size=4))
    def round_trip(rows: list[Any]) -> None:
        table = to_table(rows, row)
        assert table.schema == schema(row)
        assert from_table(table, row) == rows

    round_trip()


def test_a_column_of_nothing_keeps_its_type() -> None:
    opinion = Opinion("a/b", "a", "s", "german", "Lukas", "claim", "question", "text")
    assert to_table([opinion], Opinion).schema.field("reject").type == pa.string()
    assert to_table([], Opinion).schema == schema(Opinion)


def test_a_missing_column_is_an_error() -> None:
    table = pa.Table.from_pylist([{"model": "base"}], schema=pa.schema([("model", pa.string())]))
    with pytest.raises(TypeError):
        from_table(table, Score)


def test_columns_are_replaced_and_others_left_out() -> None:
    given = to_table([Score("base", "german", "t", "emd", 0.1, 0.0, 0.2, 3)], Score)
    more = given.append_column("more", pa.array([1])).drop_columns(["model"])
    made = replaced(more, Score, {"model": pa.array(["uniform"])})
    assert made.schema == schema(Score)
    assert from_table(made, Score) == [Score("uniform", "german", "t", "emd", 0.1, 0.0, 0.2, 3)]
    with pytest.raises(KeyError):
        replaced(more, Score, {})


def test_a_row_cannot_be_changed() -> None:
    for row in (Score("base", "german", "t", "emd", 0.1, 0.0, 0.2, 3), Prediction("i", "m", "c", "t", "i", "o")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            row.model = "other"  # type: ignore[misc]
    assert set(records.__all__) >= {row.__name__ for row in ROWS}
