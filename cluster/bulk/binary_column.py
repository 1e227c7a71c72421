"""Bytes that may be too many for memory: written to a temporary file, and used through the page cache."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile, gettempdir
from typing import IO

import numpy as np
import pyarrow as pa

from deployments.errors import fail

HELD_BYTES = 8 * 2**20
"""More than this is in a file, which the system may drop from memory."""

Data = bytes | mmap.mmap
"""Bytes in memory, or in a file that is mapped. Where they are only read, they may also be a buffer of Arrow."""


class SpooledBytes:
    """Bytes that are written one after another, and become a file if they are many."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._file: IO[bytes] | None = None

    def write(self, data: bytes) -> None:
        """Adds bytes. Raises `MotetError` (storage_full)."""
        self._held += data
        if len(self._held) > HELD_BYTES:
            with storage_full_for_os_error():
                self._file = self._file or TemporaryFile()
                self._file.write(self._held)
            self._held.clear()

    def finish(self, head: bytes) -> Data:
        """All of them, of which `head` replaces the first. Raises `MotetError` (storage_full)."""
        if self._file is None:
            self._held[: len(head)] = head
            return bytes(self._held)
        with storage_full_for_os_error():
            self._file.write(self._held)
            self._file.seek(0)
            self._file.write(head)
            return map_file(self._file)

    def close(self) -> None:
        """Removes the file, once nothing that is mapped needs it. Safe to call twice."""
        self._held.clear()
        if self._file is not None:
            with suppress(OSError):  # closing writes what is left
                self._file.close()


@contextmanager
def storage_full_for_os_error() -> Iterator[None]:
    """An `OSError` of a temporary file becomes a `MotetError` (storage_full), which no row is to blame for."""
    try:
        yield
    except OSError as error:
        cause = f"A temporary file cannot be written: {error.strerror or error}."
        remedy = f"Make room in {gettempdir()}, or set TMPDIR to a folder on a larger disk. Then run the job again."
        raise fail("storage_full", cause, remedy, code="storage_full") from error


def map_file(file: IO[bytes]) -> mmap.mmap:
    """The content of a file, which must not be empty. It stays after the file is closed."""
    file.flush()
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def binary_column(cells: Sequence[Data | None]) -> pa.ChunkedArray:
    """A column of `large_binary`. Bytes that are mapped are not copied."""
    if not any(isinstance(cell, mmap.mmap) for cell in cells):
        return pa.chunked_array([pa.array(cells, pa.large_binary())])
    return pa.chunked_array([_cell(cell) for cell in cells], pa.large_binary())


def cells_of(column: pa.ChunkedArray) -> Iterator[pa.Buffer | None]:
    """The bytes of each cell of a column of `large_binary`, where they are. A scalar of such a column is a copy."""
    for chunk in column.chunks:
        _, ends, content = chunk.buffers()
        places = np.frombuffer(ends, np.int64)[chunk.offset :] if len(chunk) else ()
        for at, present in enumerate(chunk.is_valid().to_pylist()):
            start, end = int(places[at]), int(places[at + 1])
            yield (content.slice(start, end - start) if end > start else pa.py_buffer(b"")) if present else None


def _cell(data: Data | None) -> pa.Array:
    if data is None:
        return pa.nulls(1, pa.large_binary())
    content = pa.py_buffer(data)
    offsets = pa.py_buffer(np.array([0, content.size], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, content])
