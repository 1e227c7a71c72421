"""Bytes that may be too many for memory: written to a temporary file, and used through the page cache."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import SEEK_END
from socket import gethostname
from tempfile import SpooledTemporaryFile
from typing import IO

from deployments.errors import fail

HELD_BYTES = 8 * 2**20
"""More than this is in a file, which the system may drop from memory."""

Data = bytes | mmap.mmap
"""Bytes in memory, or in a file that is mapped. Where they are only read, they may also be a buffer of Arrow."""


class SpooledBytes:
    """Bytes that are written one after another, and become a file if they are many."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile[bytes](HELD_BYTES)

    def write(self, data: bytes) -> None:
        """Adds bytes. Raises `MotetError` (storage_full)."""
        with storage_full_for_os_error():
            self._file.write(data)

    def finish(self, head: bytes) -> Data:
        """All of them, of which `head` replaces the first. Raises `MotetError` (storage_full)."""
        with storage_full_for_os_error():
            size = self._file.seek(0, SEEK_END)
            self._file.seek(0)
            self._file.write(head)
            self._file.seek(0)
            return map_file(self._file) if size > HELD_BYTES else self._file.read()

    def close(self) -> None:
        """Removes the file, once nothing that is mapped needs it. Safe to call twice."""
        with suppress(OSError):  # closing writes what is left
            self._file.close()


@contextmanager
def storage_full_for_os_error() -> Iterator[None]:
    """An `OSError` of a temporary file becomes a `MotetError` (storage_full), which no row is to blame for."""
    try:
        yield
    except OSError as error:
        cause = f"A temporary file cannot be written on {gethostname()}: {error.strerror or error}."
        remedy = (
            "Make room in its folder of temporary files (TMPDIR, or /tmp), or set TMPDIR to a folder on a larger disk."
        )
        remedy += " Then run the job again."
        raise fail("storage_full", cause, remedy, code="storage_full") from error


def map_file(file: IO[bytes] | SpooledTemporaryFile[bytes]) -> mmap.mmap:
    """The content of a file, which must not be empty. It stays after the file is closed."""
    file.flush()
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
