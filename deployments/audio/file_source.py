"""The file object from which FFmpeg reads a client's recording."""

from __future__ import annotations

import io
from contextlib import ExitStack
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, Protocol, cast

from deployments.errors import MotetError, fail

SPOOLED_BYTES_IN_MEMORY = 2**20
MOST_SPOOLED_BYTES = 2**30


class ByteSource(Protocol):
    """Anything that gives bytes in order: an upload, a pipe, an open file."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""


class FileSource:
    """Wraps the caller's file for FFmpeg.

    It can look at the first bytes without consuming them. It keeps an error of the file for `raise_error`, since PyAV
    raises it in whichever call fails next. It never returns more bytes than requested, since PyAV would write past its
    buffer.
    """

    def __init__(self, file: ByteSource, size_bytes: int | None) -> None:
        self._file = cast(BinaryIO, file)
        self._temporary = ExitStack()
        self._can_seek = bool(getattr(file, "seekable", bool)())
        self._error: Exception | None = None
        self._ahead = b""
        self._head = b""
        self.size_bytes = size_bytes
        if self._can_seek:
            self.size_bytes = self._file.seek(0, io.SEEK_END)
            self._file.seek(0)

    def peek(self, size: int) -> bytes:
        head = b""
        while len(head) < size and (more := self.read(size - len(head))):
            head += more
        self.raise_error()
        if self._can_seek:
            self._file.seek(0)
        else:
            self._ahead = head
        self._head = head
        return head

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes from any offset, without moving; from a file that cannot seek, only the bytes that `peek` returned."""
        if not self._can_seek or offset + size <= len(self._head):
            return self._head[offset : offset + size]
        place = self._file.tell()
        self._file.seek(offset)
        try:
            return self.read(size)
        finally:
            self._file.seek(place)

    def make_seekable(self) -> None:
        """Copies the rest of a file that cannot seek to a temporary file. Raises `MotetError` (too_large) if it is too
        large."""
        if self._can_seek:
            return
        spool = SpooledTemporaryFile(max_size=SPOOLED_BYTES_IN_MEMORY)
        self._temporary.enter_context(spool)
        while block := self.read(2**16):
            spool.write(block)
            if spool.tell() > MOST_SPOOLED_BYTES:
                raise _too_large()
        self.raise_error()
        spool.seek(0)
        self._file, self._can_seek = cast(BinaryIO, spool), True

    def close(self) -> None:
        self._temporary.close()

    def read(self, size: int) -> bytes:
        if self._ahead:
            taken, self._ahead = self._ahead[:size], self._ahead[size:]
            return taken
        try:
            return bytes(self._file.read(size))[:size]
        except Exception as error:
            self._error = error
            return b""

    def seekable(self) -> bool:
        return self._can_seek

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):
            # A damaged index may point anywhere. A negative number is FFmpeg's sign for a failed seek.
            return -1

    def tell(self) -> int:
        return self._file.tell()

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error


def _too_large() -> MotetError:
    cause = f"An M4A or MP4 file may hold at most {MOST_SPOOLED_BYTES // 2**20} MiB."
    return fail("too_large", cause, "Send the sound alone, as MP3 or FLAC.", param="file", code="audio_too_large")
