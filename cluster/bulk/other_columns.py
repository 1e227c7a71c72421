"""The columns of a user's table that no task reads. They are written beside the results, so that no row has to be matched
with its table again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from cluster.bulk.results import OUTPUT
from cluster.bulk.row import as_utf8, is_text
from deployments.engines.registry import Task

GIVEN = "input_"
"""Begins the name of a column whose own name a result has."""
_OF_RESULTS = frozenset((*OUTPUT.names, "file"))
"""`file` is the name of the sound in a manifest."""
_IN_RESULTS: Mapping[Task, frozenset[str]] = {
    "speech": frozenset(("id", "text", "voice")),
    "transcription": frozenset(("id",)),
    "separation": frozenset(("id",)),
}
"""Columns that a task reads and that its results have with the same meaning."""
_MISFITS = (pa.ArrowException, OverflowError, TypeError, ValueError)
"""What pyarrow raises for values that are not of one type."""


def other_columns(facts: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """The values of a row that its result does not have, by the names under which they are written. Bytes are left out."""
    return {
        _name_of(name): _writable(value)
        for name, value in facts.items()
        if name not in _IN_RESULTS[task] and value is not None and not isinstance(value, bytes)
    }


def _name_of(name: str) -> str:
    name = as_utf8(name)
    return GIVEN + name if name in _OF_RESULTS else name


def _writable(value: Any) -> Any:
    """The value; as text if it holds half of a UTF-16 pair, which no file can."""
    if isinstance(value, str):
        return as_utf8(value)
    written = as_json(value)
    return value if is_text(written) else as_utf8(written)


def as_json(value: Any) -> str:
    """A value as JSON. Types that JSON does not have, such as dates, are strings."""
    return json.dumps(value, ensure_ascii=False, default=str)


def columns_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The other columns of all rows as a table. A column whose values are of several types is one of strings."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except _MISFITS:
        texts = [value if value is None or isinstance(value, str) else as_json(value) for value in values]
        return pa.array(texts, pa.string())


def with_columns(results: Iterator[pa.Table], columns: pa.Table) -> Iterator[pa.Table]:
    """The results of each row beside its other columns; the results of one row share its values."""
    if not columns.num_columns:
        yield from results
        return
    for at, table in enumerate(results):
        given = columns.slice(at, 1).take(pa.array([0] * table.num_rows, pa.int64()))
        for name in columns.column_names:
            table = table.append_column(name, given.column(name))
        yield table
