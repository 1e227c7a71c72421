"""Uploads on a disk of the service, and the failure of a request whose data does not fit there."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import SpooledTemporaryFile

from deployments.errors import fail

IN_MEMORY_BYTES = 1024 * 1024
"""A file up to this size stays in memory; a larger one goes to disk."""
HEAD_BYTES = 64
"""Enough for the header of a WAV file."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk is full, or the quota of the user is, or the process may not write so much into a file."""


@contextmanager
def storing(what: str) -> Iterator[None]:
    """A context in which `what` is written to a disk. Raises `MotetError` (storage_full) if the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise fail(
            "storage_full",
            f"The service's disk for {what} is full.",
            "Delete voices that you no longer need, or send less. The operator of this service must free space on the disk.",
            code="storage_full",
        ) from error


class Spool:
    """A temporary file, to which one thread appends while others read. Calls block on the disk."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        """Its name on the client's disk, as the client says."""
        self._file = SpooledTemporaryFile(IN_MEMORY_BYTES)
        self._lock = threading.Lock()
        self.size = 0
        """Bytes so far."""
        self.head = b""
        """The first of them, up to `HEAD_BYTES`, without a read of the disk."""
        self.ended = False
        """Whether all of it has arrived."""

    @property
    def on_disk(self) -> bool:
        """Whether it is on disk, so that closing takes time."""
        return bool(getattr(self._file, "_rolled", True))

    @property
    def closed(self) -> bool:
        """Whether it was removed."""
        return self._file.closed

    def append(self, data: bytes | bytearray) -> None:
        """Adds bytes. Raises `MotetError` (storage_full)."""
        with self._lock, storing("uploads"):
            self._file.seek(self.size)
            self._file.write(data)
            self.head += data[: HEAD_BYTES - len(self.head)]
            self.size += len(data)

    def read_at(self, offset: int, count: int = -1) -> bytes:
        """Up to `count` bytes from `offset` on, or all that are there."""
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count)

    def close(self) -> None:
        """Removes it. Safe to call twice."""
        with self._lock, suppress(OSError):  # closing flushes, which fails again on a full disk
            self._file.close()
