"""Rows as Arrow tables, and back.

A row type's schema is derived from its dataclass, so code and data cannot drift apart, and a column in which
every value is missing keeps its type.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

import pyarrow as pa

__all__ = ["from_table", "replaced", "schema", "to_table"]

Row = TypeVar("Row")


@functools.cache
def schema(row: type) -> pa.Schema:
    """The Arrow schema of a row type."""
    return pa.schema(_fields(row))


def to_table(rows: Iterable[Any], row: type) -> pa.Table:
    """An Arrow table with one line per row, in the declared schema even when there are no rows."""
    return pa.Table.from_pylist([dataclasses.asdict(r) for r in rows], schema=schema(row))


def from_table(table: pa.Table, row: type[Row]) -> list[Row]:
    """The rows of an Arrow table; the inverse of `to_table`.

    Raises:
        TypeError: a column that the row type needs is missing.
    """
    return [_build(row, line) for line in table.to_pylist()]


def replaced(table: pa.Table, row: type, columns: Mapping[str, pa.Array]) -> pa.Table:
    """The table in the declared schema, with these columns in place of its own; what is not declared is left out."""
    declared = schema(row)
    return pa.table([columns[n] if n in columns else table[n] for n in declared.names], schema=declared)


@functools.cache
def _hints(row: type) -> dict[str, Any]:
    return typing.get_type_hints(row)


def _fields(row: type) -> list[pa.Field]:
    hints = _hints(row)
    return [pa.field(f.name, _arrow(hints[f.name])) for f in dataclasses.fields(row)]


def _arrow(hint: Any) -> pa.DataType:
    plain = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    if hint in plain:
        return plain[hint]
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return pa.struct(_fields(hint))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return pa.string()
    if origin is tuple:
        return pa.list_(_arrow(arguments[0]))
    if origin in (types.UnionType, typing.Union):
        return _arrow(next(a for a in arguments if a is not type(None)))
    raise TypeError(f"no Arrow type is known for {hint!r}; use str, int, float, bool, tuple or a dataclass")


def _build(hint: Any, value: Any) -> Any:
    """`value`, as Arrow gives it back, in the type that the dataclass declares."""
    if value is None:
        return None
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = _hints(hint)
        return hint(**{name: _build(hints[name], v) for name, v in value.items() if name in hints})
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        return tuple(_build(inner, v) for v in value)
    return value
