"""The rows of tables: JSONL, CSV, TSV and Parquet.

A line that cannot be read becomes a row with a fault. It ends up as an error in the output and stops no other row. What is
wrong with a whole table, such as a missing column or a quote that is never closed, is raised before any row is made.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from textwrap import shorten
from typing import Any, Protocol, TextIO, cast, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.bulk.other_columns import other_columns
from cluster.bulk.row import RecordingSource, Row, as_utf8, is_text, not_utf8, row_of_file
from deployments.engines.registry import Task
from deployments.errors import MotetError, fail
from deployments.settings import InputType

READ_ROWS = 64
SHOWN_NAMES, SHOWN_CHARACTERS = 20, 60
"""Of column names in an error. Without a header, they are texts of the first row."""
LONGEST_FIELD = 16 * 1024 * 1024
"""Characters of a field of a CSV or TSV file. Python's own limit of 128 Ki is less than a book."""

_RECORDING_COLUMNS = ("path", "file")
"""`file` is the name in a job's own manifest."""
NEEDED: Mapping[Task, tuple[str, ...]] = {
    "speech": ("text",),
    "transcription": _RECORDING_COLUMNS,
    "separation": _RECORDING_COLUMNS,
}
"""Columns of which a task needs one. Where cells can be bytes, `audio` serves as well for a recording."""
OPTIONAL: Mapping[Task, tuple[str, ...]] = {
    "speech": ("id", "voice", "input_type"),
    "transcription": ("id", "stem"),
    "separation": ("id", "stem"),
}
"""Columns that a task reads if they are there."""


def open_text(path: Path) -> TextIO:
    """Opens UTF-8, or UTF-16 with a byte order mark. Other bytes become halves of characters, which `is_text` finds."""
    with path.open("rb") as file:
        start = file.read(2)
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return path.open(encoding="utf-16", errors="surrogatepass", newline="")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _jsonl(path: Path, task: Task) -> Iterator[Row]:
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _from_json(line, path, task, f"Line {number}")


def _from_json(line: str, path: Path, task: Task, place: str) -> Row:
    if not is_text(line):
        return not_utf8(place, path)
    try:
        facts = json.loads(line)
        if isinstance(facts, dict):
            return _from_facts(facts, path, task, place, path.parent)
    except (ValueError, RecursionError) as error:  # not JSON, or a number or a depth that Python does not take
        return Row("", fault=f"{place} of {path.name} is not JSON: {error}.")
    return Row("", fault=f"{place} of {path.name} is not a JSON object.")


def _csv(path: Path, task: Task) -> Iterator[Row]:
    # Strict: otherwise a quote that is never closed would make one field of the rest of the file, without an error.
    return _table(path, task, partial(csv.reader, strict=True))


def _tsv(path: Path, task: Task) -> Iterator[Row]:
    # TSV has no quoting, so a quote is an ordinary character.
    return _table(path, task, partial(csv.reader, delimiter="\t", quoting=csv.QUOTE_NONE))


class _CsvReader(Iterator[list[str]], Protocol):
    """A reader of Python's `csv`. `line_num` is the number of lines that it has read."""

    line_num: int


def _table(path: Path, task: Task, reader: Callable[[Iterable[str]], _CsvReader]) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_FIELD)
    with open_text(path) as file:
        lines = reader(file)
        header = _next_fields(lines, path.name) or []
        if header:  # an empty file has no rows
            _check_names([as_utf8(name) for name in header], task, path.name)
        for number in count(2):
            place = f"Row {number}"
            try:
                fields = _next_fields(lines, path.name)
            except csv.Error as error:
                yield Row("", fault=f"{place} of {path.name} cannot be read: {error}.")
                continue
            if fields is None:
                return
            yield _from_fields(header, fields, path, task, place)


def check_needed(names: Sequence[str], task: Task, table: str, *more: str) -> None:
    """Raises `MotetError` (invalid) unless `names` has a column that the task needs, or one of `more`."""
    needed = (*NEEDED[task], *(more if task != "speech" else ()))
    if not set(needed) & set(names):
        found = ", ".join(repr(shorten(name, SHOWN_CHARACTERS)) for name in names[:SHOWN_NAMES]) or "none"
        found += " and more" if len(names) > SHOWN_NAMES else ""
        cause = f"{table} has no column {' or '.join(f'`{name}`' for name in needed)}. Its columns: {found}."
        raise fail("invalid", cause, "Add one to the header row (case-sensitive).")


def _check_names(names: Sequence[str], task: Task, table: str, *more: str) -> None:
    """As `check_needed`, and raises for duplicate columns."""
    check_needed(names, task, table, *more)
    for name in (*OPTIONAL[task], *NEEDED[task], *more):
        if names.count(name) > 1:
            cause = f"{table} has {names.count(name)} columns `{name}`."
            raise fail("invalid", cause, "Keep one of them, and rename the others.")


def _next_fields(lines: _CsvReader, name: str) -> list[str] | None:
    """The fields of the next row that is not empty; None at the end.

    Raises `csv.Error` for a line that cannot be read, and `MotetError` (invalid) if other lines are lost with it.
    """
    while True:
        before = lines.line_num
        try:
            fields = next(lines, None)
        except csv.Error as error:
            if lines.line_num == before + 1:
                raise
            raise _open_quote(name, before + 1, lines.line_num, error) from error
        if fields is None or fields:
            return fields


def _open_quote(name: str, first: int, last: int, error: csv.Error) -> MotetError:
    cause = f"A quote that opens in the row of line {first} of {name} includes all lines up to {last}: {error}."
    return fail(
        "invalid", as_utf8(cause), 'Close the quote at the end of its text. Inside a text, write "" for a quote.'
    )


def _from_fields(header: Sequence[str], fields: Sequence[str], path: Path, task: Task, place: str) -> Row:
    if not is_text("".join(fields)):
        return not_utf8(place, path)
    facts = dict(zip(header, fields, strict=False))
    if any(fields[len(header) :]):  # empty fields, as spreadsheets add them, are ignored
        cause = f"{place} of {path.name} has {len(fields)} fields, and the header {len(header)}."
        return Row(
            facts.get("id", ""),
            place=_place(place, path),
            fault=f"{cause} Quote texts that contain commas (CSV), or use JSONL.",
        )
    return _from_facts(facts, path, task, place, path.parent)


def _parquet(path: Path, task: Task) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        _check_names(names, task, path.name, "audio")
        columns = [field.name for field in file.schema_arrow if field.name == "audio" or not _is_binary(field.type)]
        number = 0
        for batch in file.iter_batches(batch_size=READ_ROWS, columns=columns):
            for at in range(batch.num_rows):
                yield _from_parquet(batch.slice(at, 1), path, task, number)
                number += 1


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _from_parquet(row: pa.RecordBatch, path: Path, task: Task, number: int) -> Row:
    place = f"Row {number}"
    try:
        (facts,) = row.to_pylist()
    except UnicodeDecodeError:
        return not_utf8(place, path)
    return _from_facts(facts, path, task, place, path.parent, number)


TABLES: Mapping[str, Callable[[Path, Task], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
"""The reader of each kind of table, by the file's suffix."""


def row_of(facts: Mapping[str, Any], task: Task) -> Row:
    """A row of a user's table, which has `text`, `audio` (bytes), `path` or `file`."""
    return _read(facts, Path("the table"), task, "A row", Path(), 0)


def _from_facts(
    facts: Mapping[str, Any], path: Path, task: Task, place: str, folder: Path, row: int | None = None
) -> Row:
    """Relative paths begin at `folder`. `row` is the index of `audio` in a Parquet file."""
    found = _read(facts, path, task, place, folder, row)
    return replace(found, place=_place(place, path), others=other_columns(facts, task))


def _place(place: str, path: Path) -> str:
    return as_utf8(f"{place[0].lower()}{place[1:]} of {path.name}")


def _read(facts: Mapping[str, Any], path: Path, task: Task, place: str, folder: Path, row: int | None) -> Row:
    """The row without its other columns."""
    name = _id_in(facts, task)
    if task == "speech":
        text, voice = facts.get("text"), facts.get("voice") or None
        if not isinstance(text, str) or not text.strip():
            return Row(name, fault=f"{place} of {path.name} has no `text`.")
        voice = None if voice is None else str(voice)
        if not is_text(text + (voice or "")):
            return Row(name, fault=f"{place} of {path.name} contains half of a UTF-16 pair, which is not a character.")
        form = facts.get("input_type") or "text"
        if form not in get_args(InputType):
            wanted = " or ".join(get_args(InputType))
            return Row(
                name,
                text,
                voice,
                fault=f"{place} of {path.name} has the `input_type` {as_utf8(repr(form))}. Write {wanted}.",
            )
        return Row(name, text=text, voice=voice, input_type=cast("InputType", form))
    sound = facts.get("audio")
    if isinstance(sound, bytes):
        digest = hashlib.sha256(sound).hexdigest()
        return Row(name, recording=RecordingSource(str(path.resolve()), row, digest, len(sound)))
    file = next((facts[column] for column in _RECORDING_COLUMNS if facts.get(column)), None)
    if not isinstance(file, str) or not file:
        return Row(name, fault=f"{place} of {path.name} has no `path` or `file`, and no `audio`.")
    return row_of_file(name, folder / file)


def _id_in(facts: Mapping[str, Any], task: Task) -> str:
    """The row's id. Stems that a job wrote have the id of their recording, so the stem is added."""
    name = "" if facts.get("id") is None else str(facts["id"])
    stem = facts.get("stem") if task != "speech" else None
    return f"{name}.{stem}" if name and stem else name
