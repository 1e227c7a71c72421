"""What is done, on disk: one part file for each finished batch, which is there whole or not at all.

A part is an Arrow file, so that single rows of it are read through the page cache. The process that started the job is the
only one that writes; a lock keeps a second one out.
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
from typing import Any

import pyarrow as pa

from cluster.bulk.results import RESULT
from deployments.errors import fail

FOLDER = ".motet-bulk"
PART = ".arrow"
HALF = ".half"
OUR_HALF = re.compile(r"\..+\.[0-9a-f]{8}\.half")
OUTPUT_HALVES = (".part-*", ".manifest.jsonl.*", "audio/.*")
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
        """Keeps other jobs out. Raises `MotetError` when one is at work, or the folder cannot be written."""
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
            except OSError as error:
                cause = f"Another job is writing to {self.output}."
                raise fail("unavailable", cause, "Wait for it, or name another folder.") from error
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Removes what a kill left half written; in the output folder only where a job of ours has begun."""
        halves = list(self._folder.rglob(f"*{HALF}"))
        if self._record.exists():
            found = (path for pattern in OUTPUT_HALVES for path in self.output.glob(pattern))
            halves += [path for path in found if OUR_HALF.fullmatch(path.name)]
        for half in halves:
            half.unlink(missing_ok=True)

    @property
    def record(self) -> Mapping[str, Any] | None:
        """What `begin` or `finish` wrote; None for a new folder."""
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
        """The names of the batches whose part is there."""
        return {path.name.removesuffix(PART) for path in self._parts.glob(f"*{PART}")}

    def put(self, name: str, part: bytes) -> None:
        """Keeps a part. The same name always holds the same bytes."""
        write_whole(self._parts / (name + PART), part)

    def part(self, name: str) -> pa.Table:
        """A part's rows, mapped into memory and not read."""
        with pa.memory_map(str(self._parts / (name + PART))) as file:
            return pa.ipc.open_file(file).read_all()

    def forget(self, names: set[str]) -> None:
        """Removes parts, because they are to be made once more or are written elsewhere."""
        for name in names:
            (self._parts / (name + PART)).unlink(missing_ok=True)


def part_bytes(table: pa.Table) -> bytes:
    """A `RESULT` table as a part file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, RESULT) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def cut_to_bytes(text: str, most: int) -> str:
    """As many whole characters from the beginning as `most` bytes of UTF-8 hold: file systems count bytes."""
    return text.encode()[:most].decode(errors="ignore")


def write_whole(path: Path, data: bytes) -> None:
    """The file appears, or changes, only when all of it is on the disk."""
    with replacing(path) as half:
        half.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write to beside `path`, which takes its place at the end."""
    half = path.with_name(f".{cut_to_bytes(path.name, LONGEST_HALF_BYTES)}.{secrets.token_hex(4)}{HALF}")
    try:
        yield half
        _sync(half)
        half.replace(path)
    finally:
        with suppress(OSError):
            half.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """So that a rename is never on the disk before what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
