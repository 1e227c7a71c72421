"""Stores finished batches on disk, one part file each. A part file is complete or not there at all.

A part is an Arrow file, so that single rows are read through the page cache. Only the process that started the job writes;
a lock keeps others out.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pyarrow as pa

from cluster.bulk.results import RESULT
from cluster.bulk.spooled_bytes import HELD_BYTES, Data, map_file, storage_full_for_os_error
from deployments.errors import fail

FOLDER = ".motet-bulk"
PART = ".arrow"
HALF = ".half"
OUR_HALF = re.compile(r"\..+\.[0-9a-f]{8}\.half")
OUTPUT_HALVES = (".part-*", ".manifest.jsonl.*", ".failed.jsonl.*", "audio/.*", "transcripts/.*")
LONGEST_HALF_BYTES = 100


class JobStore:
    """The job's own folder inside its output folder."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self._folder = output / FOLDER
        self._parts = self._folder / "parts"
        self._record = self._folder / "job.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other jobs out. Raises `MotetError` if one is running, or if the folder cannot be written or locked."""
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / "lock").open("w")
        except OSError as error:
            raise fail(
                "invalid", f"{self.output} cannot be written: {error.strerror}.", "Name another folder."
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                cause = f"Another job is writing to {self.output}."
                raise fail("unavailable", cause, "Wait for it, or name another folder.") from error
            except OSError as error:  # some network file systems have no locks
                cause = f"{self.output} cannot be locked: {error.strerror}."
                raise fail(
                    "invalid", cause, "Name a folder on a file system with locks, such as a local disk."
                ) from error
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Removes files that a killed process left half written. In the output folder it does so only if a job has begun
        there."""
        halves = list(self._folder.rglob(f"*{HALF}"))
        if self._record.exists():
            found = (path for pattern in OUTPUT_HALVES for path in self.output.glob(pattern))
            halves += [path for path in found if OUR_HALF.fullmatch(path.name)]
        for half in halves:
            half.unlink(missing_ok=True)

    @property
    def record(self) -> Mapping[str, Any] | None:
        """The contents of the last `write_record`; None in a new folder."""
        try:
            found = json.loads(self._record.read_text())
        except FileNotFoundError:
            return None
        assert isinstance(found, dict)
        return found

    def write_record(self, facts: Mapping[str, Any]) -> None:
        """Replaces the record."""
        write_whole(self._record, (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode())

    def done(self) -> set[str]:
        """The names of the batches that have a part."""
        return {path.name.removesuffix(PART) for path in self._parts.glob(f"*{PART}")}

    def put(self, name: str, part: Data) -> None:
        """Stores a part. The same name always has the same bytes."""
        write_whole(self._parts / (name + PART), part)

    def part(self, name: str) -> pa.Table:
        """A part's rows, memory-mapped."""
        with pa.memory_map(str(self._parts / (name + PART))) as file:
            return pa.ipc.open_file(file).read_all()

    def forget(self, names: set[str]) -> None:
        """Removes parts that will be made again, or whose rows are in the output."""
        for name in names:
            (self._parts / (name + PART)).unlink(missing_ok=True)


def part_bytes(table: pa.Table) -> Data:
    """Converts a `RESULT` table to the bytes of a part file. Raises `MotetError` (storage_full)."""
    if table.nbytes > HELD_BYTES:
        with storage_full_for_os_error(), NamedTemporaryFile() as file:
            with pa.OSFile(file.name, "wb") as sink:
                _write_part(table, sink)
            return map_file(file)
    memory = pa.BufferOutputStream()
    _write_part(table, memory)
    return bytes(memory.getvalue())


def _write_part(table: pa.Table, sink: pa.NativeFile) -> None:
    with pa.ipc.new_file(sink, RESULT) as writer:
        writer.write_table(table)


def cut_to_bytes(text: str, most: int) -> str:
    """The longest beginning of a text with at most `most` bytes of UTF-8. File systems count bytes."""
    return text.encode()[:most].decode(errors="ignore")


def write_whole(path: Path, data: Data) -> None:
    """Writes a file that appears, or changes, only once it is on the disk."""
    with replacing(path) as half:
        half.write_bytes(memoryview(data))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which replaces it at the end."""
    half = path.with_name(f".{cut_to_bytes(path.name, LONGEST_HALF_BYTES)}.{secrets.token_hex(4)}{HALF}")
    try:
        yield half
        _sync(half)
        half.replace(path)
    finally:
        with suppress(OSError):
            half.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Makes sure that the data is on the disk before the rename is."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
