"""The uploaded files of a service, in the format of OpenAI's `/v1/files`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import cast

from starlette.requests import HTTPConnection

from serve_app.gateway.jobs import file_table
from serve_app.gateway.jobs.blobs import Blobs
from serve_app.gateway.jobs.database import JobDatabase
from serve_app.gateway.jobs.records import Blob, StoredFile, Viewer, new_id
from serve_app.gateway.jobs.settings import JobSettings


class Files:
    """`clock` gives Unix seconds."""

    def __init__(
        self, settings: JobSettings, database: JobDatabase, blobs: Blobs, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._database = database
        self._blobs = blobs
        self._clock = clock

    async def add(self, viewer: Viewer, blob: Blob, name: str, purpose: str, keep_s: float | None) -> StoredFile:
        """A file of an uploaded blob, kept for `keep_s` but no longer than the settings say. Raises `MotetError`
        (overloaded)."""
        now_s, most_s = self._clock(), self._settings.keep_files_s
        expires_at = now_s + min(keep_s or most_s, most_s)
        file = StoredFile(new_id("file"), viewer.name, blob, name, purpose, now_s, expires_at)
        await self._database.run(file_table.add_upload, file, self._settings)
        return file

    async def get(self, viewer: Viewer, id: str) -> StoredFile:
        """A file. Raises `MotetError` (not_found)."""
        return await self._database.run(file_table.get, viewer, id)

    async def listed(
        self, viewer: Viewer, purpose: str | None, after: str | None, limit: int, *, newest_first: bool
    ) -> tuple[Sequence[StoredFile], bool]:
        """The viewer's own files, and whether others follow."""
        files = await self._database.run(
            file_table.listed, viewer.name, purpose, after, limit + 1, newest_first=newest_first
        )
        return files[:limit], len(files) > limit

    def content(self, file: StoredFile) -> AsyncGenerator[bytes]:
        """The content of a file."""
        return self._blobs.blocks(file.blob.digest)

    async def delete(self, viewer: Viewer, id: str) -> None:
        """Deletes a file. Raises `MotetError` (not_found)."""
        await self.get(viewer, id)
        await self._database.run(file_table.delete, id, self._clock())


def files_of(connection: HTTPConnection) -> Files:
    """The files of the application that answers this request."""
    return cast(Files, connection.app.state.files)
