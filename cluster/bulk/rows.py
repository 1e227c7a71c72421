"""The rows of a job: JSONL, CSV, Parquet, plain text and EPUB chapters for speech; recordings for the rest.

A line that cannot be read becomes a row with a fault, which ends up as an error in the output and stops nobody. What is wrong
with a whole table, as a column that is not there or a quote that takes other lines with it, is told before any row is made.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import count
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, Protocol, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.bulk.epub import chapters
from deployments.engines.registry import Task
from deployments.errors import MotetError, fail

Split = Literal["line", "paragraph"]

RECORDINGS = frozenset((".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".aac", ".webm"))
READ_ROWS = 64
LONGEST_ID = 200
SHOWN_NAMES, SHOWN_CHARACTERS = 20, 60
"""Of columns in an error: where there is no header, they are texts."""
LONGEST_FIELD = 16 * 1024 * 1024
"""Characters of a field of a CSV or TSV file. Python's own limit, of 128 Ki, is less than a book."""

_SOUND_FILE = ("path", "file")
"""`file` is what the manifest of a job calls it."""
NEEDED: Mapping[Task, tuple[str, ...]] = {
    "speech": ("text",),
    "transcription": _SOUND_FILE,
    "separation": _SOUND_FILE,
}
"""Columns of a table of which a task needs one. Where cells can be bytes, `audio` is as good for a recording."""
OPTIONAL: Mapping[Task, tuple[str, ...]] = {
    "speech": ("id", "voice"),
    "transcription": ("id", "stem"),
    "separation": ("id", "stem"),
}
"""Columns that a task reads where they are there."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Where the bytes of a recording are: a file, or the `audio` cell of a row of a Parquet file."""

    path: str
    row: int | None
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `text` to speak, perhaps with a `voice` of its own, or a recording. `fault` says why there is neither.

    One without an id takes the first of `names` that is no other row's.
    """

    id: str
    text: str = ""
    voice: str | None = None
    recording: Recording | None = None
    fault: str = ""
    names: tuple[str, ...] = ()


def read_rows(paths: Sequence[Path], task: Task, split: Split) -> Iterator[Row]:
    """The rows of all inputs in order, each with an id of its own.

    Raises `MotetError` for an input that cannot be read at all, and for two rows that were given one id.
    """
    rows = [_with_a_fit_id(row) for path in paths for row in _whole(path, task, split)]
    taken: set[str] = set()
    for row in rows:
        if row.id and row.id in taken:
            raise fail("invalid", f"Two rows have the id {row.id!r}.", "Give each row an `id` of its own, or none.")
        taken.add(row.id)
    # Those that were given come first, wherever they stand: nobody can change what we make up ourselves.
    for number, row in enumerate(rows):
        name = row.id or next(name for name in _names_of(row, number) if name not in taken)
        taken.add(name)
        yield replace(row, id=name, fault=_as_utf8(row.fault), names=())


def _with_a_fit_id(row: Row) -> Row:
    if len(row.id) > LONGEST_ID:
        return Row("", fault="The row's id is too long.")
    return row if _is_text(row.id) else Row("", fault="The row's id is not text: it holds half of a UTF-16 pair.")


def _names_of(row: Row, number: int) -> Iterator[str]:
    yield from (name for name in map(_as_utf8, row.names) if name and len(name) <= LONGEST_ID)
    yield f"{number:06d}"
    yield from (f"{number:06d}-{again}" for again in count(2))


def _is_text(text: str) -> bool:
    """Whether it can be written at all: Python's strings, and JSON's, may hold half of a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_utf8(text: str) -> str:
    """File names may be no UTF-8; unlike ones stay unlike."""
    return text.encode(errors="backslashreplace").decode()


def _whole(path: Path, task: Task, split: Split) -> Iterator[Row]:
    """The rows of an input; one that breaks off is no input. Raises `MotetError` that names it."""
    try:
        yield from _rows_of(path, task, split)
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        cause = f"{path} cannot be read: {' '.join(str(error).split()).rstrip('.')}."
        raise fail("invalid", _as_utf8(cause), "Check the file, or export it again.") from error


def _rows_of(path: Path, task: Task, split: Split) -> Iterator[Row]:
    if not path.exists():
        raise fail("invalid", f"There is no file {path}.", "Check the input.")
    if task != "speech" and path.is_dir():
        return _folder(path)
    if task != "speech" and path.suffix.lower() in RECORDINGS:
        return iter([replace(_from_file("", path), names=_file_names(path, path.parent))])
    reader = _READERS.get(path.suffix.lower())
    if reader is None or path.is_dir():
        known = (
            ", ".join(_READERS)
            if task == "speech"
            else f"a folder, {', '.join(sorted(RECORDINGS))}, {', '.join(_TABLES)}"
        )
        raise fail("invalid", f"{path} is not an input for {task}.", f"Known inputs: {known}.")
    if task != "speech" and path.suffix.lower() not in _TABLES:
        raise fail("invalid", f"{path} holds no recordings.", f"Known inputs: {', '.join(_TABLES)} and sound files.")
    return reader(path, task, split)


def _folder(folder: Path) -> Iterator[Row]:
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in RECORDINGS and file.is_file())
    if not found:
        raise fail("invalid", f"There is no recording in {folder}.", f"Known kinds: {', '.join(sorted(RECORDINGS))}.")
    for file in found:
        yield replace(_from_file("", file), names=_file_names(file, folder))


def _file_names(file: Path, folder: Path) -> tuple[str, ...]:
    """The shortest first: `a`, `a.wav`, `folder/a.wav`, and the whole path."""
    name = file.relative_to(folder)
    return str(name.with_suffix("")), str(name), str(folder.resolve().name / name), str(folder / name)


def _open_text(path: Path) -> TextIO:
    """UTF-8, or UTF-16 with its mark. Bytes that are neither come as halves of characters, which `_is_text` finds."""
    with path.open("rb") as file:
        start = file.read(2)
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return path.open(encoding="utf-16", errors="surrogatepass", newline="")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _jsonl(path: Path, task: Task, split: Split) -> Iterator[Row]:
    with _open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _from_json(line, path, task, f"Line {number}")


def _from_json(line: str, path: Path, task: Task, place: str) -> Row:
    if not _is_text(line):
        return _not_utf8(place, path)
    try:
        facts = json.loads(line)
        if isinstance(facts, dict):
            return _from_facts(facts, path, task, place, path.parent)
    except (ValueError, RecursionError) as error:  # not JSON, or a number or a depth that Python does not take
        return Row("", fault=f"{place} of {path.name} is not JSON: {error}.")
    return Row("", fault=f"{place} of {path.name} is not a JSON object.")


def _not_utf8(place: str, path: Path) -> Row:
    return Row("", fault=f"{place} of {path.name} is not UTF-8. Save the file as UTF-8.")


def _csv(path: Path, task: Task, split: Split) -> Iterator[Row]:
    # Strict: a quote that is never closed would otherwise take the rest of the file for one field, and nobody would know.
    return _table(path, task, partial(csv.reader, strict=True))


def _tsv(path: Path, task: Task, split: Split) -> Iterator[Row]:
    # A quote is a character like any other: TSV has no way to quote.
    return _table(path, task, partial(csv.reader, delimiter="\t", quoting=csv.QUOTE_NONE))


class _Lines(Iterator[list[str]], Protocol):
    """A reader of Python's `csv`. `line_num` is how many lines of the file it has read."""

    line_num: int


def _table(path: Path, task: Task, reader: Callable[[Iterable[str]], _Lines]) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_FIELD)
    with _open_text(path) as file:
        lines = reader(file)
        header = _next_fields(lines, path.name) or []
        if header:  # an empty file has no rows
            _check_names([_as_utf8(name) for name in header], task, path.name)
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
        raise fail(
            "invalid", cause, "Name the columns so, in this case of letters; a CSV or TSV file does in its first line."
        )


def _check_names(names: Sequence[str], task: Task, table: str, *more: str) -> None:
    """As `check_needed`, and for columns that are there twice."""
    check_needed(names, task, table, *more)
    for name in (*OPTIONAL[task], *NEEDED[task], *more):
        if names.count(name) > 1:
            cause = f"{table} has {names.count(name)} columns `{name}`."
            raise fail("invalid", cause, "Leave the one that is meant, or rename the others.")


def _next_fields(lines: _Lines, name: str) -> list[str] | None:
    """The fields of the next row that is not empty; None at the end.

    Raises `csv.Error` for a line that cannot be read, and `MotetError` (invalid) where other lines are lost with it.
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
    cause = f"A quote that opens in the row of line {first} of {name} takes the lines up to {last} into it: {error}."
    return fail("invalid", _as_utf8(cause), 'Close the quote where its text ends; one within a text is written "".')


def _from_fields(header: Sequence[str], fields: Sequence[str], path: Path, task: Task, place: str) -> Row:
    if not _is_text("".join(fields)):
        return _not_utf8(place, path)
    facts = dict(zip(header, fields, strict=False))
    if any(fields[len(header) :]):  # empty ones, as spreadsheets leave them, hold nothing that would be lost
        told = f"{place} of {path.name} has {len(fields)} fields, and the header {len(header)}."
        return Row(facts.get("id", ""), fault=f"{told} Quote a text that has commas in it (CSV), or use JSONL.")
    return _from_facts(facts, path, task, place, path.parent)


def _parquet(path: Path, task: Task, split: Split) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        _check_names(names, task, path.name, "audio")
        columns = sorted(set(names) & {*OPTIONAL[task], *NEEDED[task], "audio"})
        number = 0
        for batch in file.iter_batches(batch_size=READ_ROWS, columns=columns):
            for at in range(batch.num_rows):
                yield _from_parquet(batch.slice(at, 1), path, task, number)
                number += 1


def _from_parquet(row: pa.RecordBatch, path: Path, task: Task, number: int) -> Row:
    place = f"Row {number}"
    try:
        (facts,) = row.to_pylist()
    except UnicodeDecodeError:
        return _not_utf8(place, path)
    return _from_facts(facts, path, task, place, path.parent, number)


def _plain(path: Path, task: Task, split: Split) -> Iterator[Row]:
    with _open_text(path) as lines:
        held: list[str] = []
        start = 0
        for number, line in enumerate(lines, 1):
            if line.strip():
                start = start if held else number
                held.append(line.strip())
            if held and (split == "line" or not line.strip()):
                yield _from_lines(held, path, start)
                held = []
        if held:
            yield _from_lines(held, path, start)


def _from_lines(lines: Sequence[str], path: Path, start: int) -> Row:
    text = " ".join(lines)
    return Row("", text=text) if _is_text(text) else _not_utf8(f"The text from line {start}", path)


def _epub(path: Path, task: Task, split: Split) -> Iterator[Row]:
    for number, chapter in enumerate(chapters(path), 1):
        name = f"{path.stem}-{number:03d} {chapter.title}"[:LONGEST_ID]
        yield Row(
            "", chapter.text, fault=chapter.fault, names=(name, f"{path.parent.resolve().name}/{name}"[:LONGEST_ID])
        )


_TABLES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
_READERS: Mapping[str, Callable[[Path, Task, Split], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".txt": _plain,
    ".epub": _epub,
}


def row_of(facts: Mapping[str, Any], task: Task) -> Row:
    """A row of somebody's table, which has `text`, `audio` (bytes), `path` or `file`."""
    return _from_facts(facts, Path("the table"), task, "A row", Path(), 0)


def _from_facts(
    facts: Mapping[str, Any], path: Path, task: Task, place: str, folder: Path, row: int | None = None
) -> Row:
    """`folder` is where a relative `path` or `file` begins; `row` says where in a Parquet file `audio` is."""
    name = _id_in(facts, task)
    if task == "speech":
        text, voice = facts.get("text"), facts.get("voice") or None
        if not isinstance(text, str) or not text.strip():
            return Row(name, fault=f"{place} of {path.name} has no `text`.")
        voice = None if voice is None else str(voice)
        if not _is_text(text + (voice or "")):
            return Row(name, fault=f"{place} of {path.name} has half of a UTF-16 pair in it, which is no character.")
        return Row(name, text=text, voice=voice)
    sound = facts.get("audio")
    if isinstance(sound, bytes):
        digest = hashlib.sha256(sound).hexdigest()
        return Row(name, recording=Recording(str(path.resolve()), row, digest, len(sound)))
    file = next((facts[column] for column in _SOUND_FILE if facts.get(column)), None)
    if not isinstance(file, str) or not file:
        return Row(name, fault=f"{place} of {path.name} has no `path` or `file`, and no `audio`.")
    return _from_file(name, folder / file)


def _id_in(facts: Mapping[str, Any], task: Task) -> str:
    """Stems of one recording, as a job writes them, have its id, and are rows of their own here."""
    name = "" if facts.get("id") is None else str(facts["id"])
    stem = facts.get("stem") if task != "speech" else None
    return f"{name}.{stem}" if name and stem else name


def _from_file(name: str, path: Path) -> Row:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Row(name, recording=Recording(str(path.resolve()), None, digest, file.tell()))
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        return Row(name, fault=f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.")


def read_recording(recording: Recording) -> bytes:
    """The bytes, which must still be those that were planned. Raises `MotetError`."""
    try:
        data = Path(recording.path).read_bytes() if recording.row is None else _cell(recording.path, recording.row)
    except (OSError, IndexError, pa.ArrowException) as error:
        raise fail("invalid", f"{recording.path} cannot be read any more: {error}", "Run the command again.") from error
    if hashlib.sha256(data).hexdigest() != recording.digest:
        raise fail("invalid", f"{recording.path} has changed since the job began.", "Start a new job with it.")
    return data


def _cell(path: str, row: int) -> bytes:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < rows:
                value = _sounds(path, group)[row].as_py()
                assert isinstance(value, bytes)
                return value
            row -= rows
    raise IndexError(f"row {row}")


@lru_cache(maxsize=1)
def _sounds(path: str, group: int) -> pa.ChunkedArray:
    """All of a row group, which can only be read whole; the next recording is likely to be in it too."""
    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=["audio"]).column("audio")
