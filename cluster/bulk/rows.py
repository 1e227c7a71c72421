"""The rows of a job: JSONL, CSV, Parquet, plain text and EPUB chapters for speech; recordings for the rest.

A line that cannot be read becomes a row with a fault, which ends up as an error in the output and stops nobody.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from cluster.bulk.epub import chapters
from deployments.engines.registry import Task
from deployments.errors import fail

Split = Literal["line", "paragraph"]

RECORDINGS = frozenset((".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".aac", ".webm"))
READ_BYTES = 1024 * 1024
READ_ROWS = 64
LONGEST_ID = 200


@dataclass(frozen=True, slots=True)
class Recording:
    """Where the bytes of a recording are: a file, or the `audio` cell of a row of a Parquet file."""

    path: str
    row: int | None
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `text` to speak, perhaps with a `voice` of its own, or a recording. `fault` says why there is neither."""

    id: str
    text: str = ""
    voice: str | None = None
    recording: Recording | None = None
    fault: str = ""


def read_rows(paths: Sequence[Path], task: Task, split: Split) -> Iterator[Row]:
    """The rows of all inputs in order, each with an id of its own.

    Raises `MotetError` for an input that cannot be read at all, and for two rows with one id.
    """
    seen: set[str] = set()
    for number, row in enumerate(row for path in paths for row in _rows_of(path, task, split)):
        named = row if row.id else replace(row, id=f"{number:06d}")
        if named.id in seen:
            raise fail("invalid", f"Two rows have the id {named.id!r}.", "Give each row an `id` of its own, or none.")
        if len(named.id) > LONGEST_ID:
            named = replace(named, id=f"{number:06d}", text="", recording=None, fault="The row's id is too long.")
        seen.add(named.id)
        yield named


def _rows_of(path: Path, task: Task, split: Split) -> Iterator[Row]:
    if not path.exists():
        raise fail("invalid", f"There is no file {path}.", "Check the input.")
    if task != "speech" and path.is_dir():
        return _folder(path)
    if task != "speech" and path.suffix.lower() in RECORDINGS:
        return iter([_from_file(path.stem, path)])
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
    try:
        return reader(path, task, split)
    except (OSError, UnicodeDecodeError) as error:
        raise fail("invalid", f"{path} cannot be read: {error}", "Check the file.") from error


def _folder(folder: Path) -> Iterator[Row]:
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in RECORDINGS and file.is_file())
    if not found:
        raise fail("invalid", f"There is no recording in {folder}.", f"Known kinds: {', '.join(sorted(RECORDINGS))}.")
    for file in found:
        yield _from_file(str(file.relative_to(folder).with_suffix("")), file)


def _jsonl(path: Path, task: Task, split: Split) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                facts = json.loads(line)
            except json.JSONDecodeError as error:
                yield Row("", fault=f"Line {number} of {path.name} is not JSON: {error}.")
                continue
            if isinstance(facts, dict):
                yield _from_facts(facts, path, task, f"Line {number}")
            else:
                yield Row("", fault=f"Line {number} of {path.name} is not a JSON object.")


def _csv(path: Path, task: Task, split: Split, *, delimiter: str = ",") -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        for number, facts in enumerate(csv.DictReader(file, delimiter=delimiter), 2):
            yield _from_facts(facts, path, task, f"Row {number}")


def _parquet(path: Path, task: Task, split: Split) -> Iterator[Row]:
    wanted = {"id", "voice", "text"} if task == "speech" else {"id", "path", "audio"}
    with pq.ParquetFile(path) as file:
        columns = sorted(wanted & set(file.schema_arrow.names))
        number = 0
        for batch in file.iter_batches(batch_size=READ_ROWS, columns=columns):
            for facts in batch.to_pylist():
                yield _from_facts(facts, path, task, f"Row {number}", number)
                number += 1


def _plain(path: Path, task: Task, split: Split) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        held: list[str] = []
        for line in lines:
            if line.strip():
                held.append(line.strip())
            if held and (split == "line" or not line.strip()):
                yield Row("", text=" ".join(held))
                held = []
        if held:
            yield Row("", text=" ".join(held))


def _epub(path: Path, task: Task, split: Split) -> Iterator[Row]:
    for number, chapter in enumerate(chapters(path), 1):
        yield Row(f"{path.stem}-{number:03d} {chapter.title}"[:LONGEST_ID], text=chapter.text)


_TABLES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
_READERS: Mapping[str, Callable[[Path, Task, Split], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": _csv,
    ".tsv": partial(_csv, delimiter="\t"),
    ".parquet": _parquet,
    ".txt": _plain,
    ".epub": _epub,
}


def row_of(facts: Mapping[str, Any], task: Task) -> Row:
    """A row of somebody's table, which has `text`, `audio` (bytes) or `path`."""
    return _from_facts(facts, Path("the table"), task, "A row", 0)


def _from_facts(facts: Mapping[str, Any], path: Path, task: Task, place: str, row: int | None = None) -> Row:
    name = "" if facts.get("id") is None else str(facts["id"])
    if task == "speech":
        text, voice = facts.get("text"), facts.get("voice") or None
        if not isinstance(text, str) or not text.strip():
            return Row(name, fault=f"{place} of {path.name} has no `text`.")
        return Row(name, text=text, voice=None if voice is None else str(voice))
    sound = facts.get("audio")
    if isinstance(sound, bytes):
        digest = hashlib.sha256(sound).hexdigest()
        return Row(name, recording=Recording(str(path.resolve()), row, digest, len(sound)))
    file = facts.get("path")
    if not isinstance(file, str) or not file:
        return Row(name, fault=f"{place} of {path.name} has no `path`, and no `audio`.")
    return _from_file(name, Path(file) if row is not None else path.parent / file)


def _from_file(name: str, path: Path) -> Row:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Row(name, recording=Recording(str(path.resolve()), None, digest, file.tell()))
    except OSError as error:
        return Row(name, fault=f"{path} cannot be read: {error.strerror}.")


def read_recording(recording: Recording) -> bytes:
    """The bytes, which must still be those that were planned. Raises `MotetError`."""
    try:
        data = Path(recording.path).read_bytes() if recording.row is None else _cell(recording.path, recording.row)
    except (OSError, IndexError) as error:
        raise fail("invalid", f"{recording.path} cannot be read any more: {error}", "Run the command again.") from error
    if hashlib.sha256(data).hexdigest() != recording.digest:
        raise fail("invalid", f"{recording.path} has changed since the job began.", "Start a new job with it.")
    return data


def _cell(path: str, row: int) -> bytes:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < rows:
                value = file.read_row_group(group, columns=["audio"]).column("audio")[row].as_py()
                assert isinstance(value, bytes)
                return value
            row -= rows
    raise IndexError(f"row {row}")
