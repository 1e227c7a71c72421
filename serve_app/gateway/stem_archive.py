"""A ZIP file of stems that is written while they come."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO

from serve_app.gateway.bodies.storage import storing

BLOCK_BYTES = 256 * 1024


class _Outbox:
    """A file that can only be written; what was written is taken away in between."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes, /) -> int:
        """Takes bytes."""
        self._data += data
        return len(data)

    def flush(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def take(self) -> bytes:
        """What was written since the last time."""
        data = bytes(self._data)
        self._data.clear()
        return data


class StemArchive:
    """The first stem goes straight out; a ZIP file holds one member after another, so the others wait on disk."""

    def __init__(self, file_names: Mapping[str, str]) -> None:
        self._names = file_names
        self._first, *others = file_names
        self._outbox = _Outbox()
        self._zip = zipfile.ZipFile(self._outbox, "w", zipfile.ZIP_STORED)
        self._member: IO[bytes] | None = self._zip.open(file_names[self._first], "w", force_zip64=True)
        self._waiting = {stem: tempfile.TemporaryFile() for stem in others}

    def add(self, stem: str, data: bytes) -> bytes:
        """Takes a stem's next bytes; returns what of the archive is ready to leave."""
        if stem != self._first:
            with storing("stems"):
                self._waiting[stem].write(data)
        elif self._member is not None:
            self._member.write(data)
        return self._outbox.take()

    def rest(self) -> Iterator[bytes]:
        """The remaining members and the archive's end."""
        self._end_member()
        for stem, file in self._waiting.items():
            with storing("stems"):
                file.seek(0)
            self._member = self._zip.open(self._names[stem], "w", force_zip64=True)
            while block := file.read(BLOCK_BYTES):
                self._member.write(block)
                yield self._outbox.take()
            self._end_member()
        self._zip.close()
        yield self._outbox.take()

    def close(self) -> None:
        """Removes what waits on disk; safe to call twice."""
        self._end_member()
        for file in self._waiting.values():
            file.close()

    def _end_member(self) -> None:
        if self._member is not None:
            self._member.close()
            self._member = None
