"""One row of a job, and where its recording is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deployments.errors import fail
from deployments.settings import InputType


@dataclass(frozen=True, slots=True)
class RecordingSource:
    """Where the bytes of a recording are: a file, or the `audio` cell of a `row` of a Parquet file. `digest` is their
    SHA-256, and `size` their number."""

    path: str
    row: int | None
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `text` to speak, perhaps with a `voice` of its own, or a recording. `fault` says why there is neither.
    `input_type` says whether the text is a document in SSML.

    A row without an id takes the first of `names` that no other row has. `place` says where it is, such as "line 3 of
    a.jsonl", and `others` are the columns of its table that no task reads. `file` is the absolute path of a recording that is
    a file of its own, also of one that cannot be read.
    """

    id: str
    text: str = ""
    voice: str | None = None
    input_type: InputType = "text"
    recording: RecordingSource | None = None
    fault: str = ""
    names: tuple[str, ...] = ()
    place: str = ""
    others: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""


def is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8. Python's and JSON's strings may hold half of a UTF-16 pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_utf8(text: str) -> str:
    """The string with what is not UTF-8 escaped. Different file names stay different."""
    return text.encode(errors="backslashreplace").decode()


def not_utf8(place: str, path: Path) -> Row:
    """The row in the place of one that is not UTF-8."""
    return Row("", fault=f"{place} of {path.name} is not UTF-8. Save the file as UTF-8.")


def row_of_file(name: str, path: Path) -> Row:
    """The row of a recording that is a file of its own. Reads the file for its digest."""
    whole = str(path.absolute())
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Row(name, recording=RecordingSource(str(path.resolve()), None, digest, file.tell()), file=whole)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        return Row(name, fault=f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.", file=whole)


def read_recording(recording: RecordingSource) -> bytes:
    """The recording's bytes. Raises `MotetError` (invalid) if they cannot be read or are not those of `digest`."""
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
    """The recordings of a row group. Parquet reads a group as a whole, and the next recording is likely to be in it."""
    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=["audio"]).column("audio")
