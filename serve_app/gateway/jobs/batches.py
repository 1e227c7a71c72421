"""Batches as the routes use them: made, listed and cancelled, in the format of OpenAI's `/v1/batches`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from starlette.requests import HTTPConnection

from serve_app.gateway.jobs import batch_table
from serve_app.gateway.jobs.database import JobDatabase
from serve_app.gateway.jobs.endpoints import Endpoint
from serve_app.gateway.jobs.records import JobBatch, StoredFile, Viewer, new_id
from serve_app.gateway.jobs.settings import JobSettings


class Batches:
    """`clock` gives Unix seconds."""

    def __init__(self, settings: JobSettings, database: JobDatabase, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._database = database
        self._clock = clock

    async def add(
        self, viewer: Viewer, file: StoredFile, endpoint: Endpoint, metadata: Mapping[str, str] | None
    ) -> JobBatch:
        """A batch of the requests in a file. Raises `MotetError` (overloaded)."""
        now_s = self._clock()
        batch = JobBatch(
            new_id("batch"), viewer.name, endpoint.path, file.id, file.blob.digest, "validating", now_s, metadata
        )
        await self._database.run(batch_table.add, batch, file.blob, self._settings)
        return batch

    async def get(self, viewer: Viewer, id: str) -> JobBatch:
        """A batch. Raises `MotetError` (not_found)."""
        return await self._database.run(batch_table.get, viewer, id)

    async def listed(self, viewer: Viewer, after: str | None, limit: int) -> tuple[Sequence[JobBatch], bool]:
        """The viewer's own batches, the newest first, and whether others follow. Raises `MotetError` (not_found) for
        an unknown `after`."""
        batches = await self._database.run(batch_table.listed, viewer.name, after, limit + 1)
        return batches[:limit], len(batches) > limit

    async def cancel(self, viewer: Viewer, id: str) -> JobBatch:
        """Cancels a batch. Raises `MotetError` (not_found, conflict if it has ended)."""
        return await self._database.run(batch_table.cancel, viewer, id, self._clock())


def batches_of(connection: HTTPConnection) -> Batches:
    """The batches of the application that answers this request."""
    return cast(Batches, connection.app.state.batches)
