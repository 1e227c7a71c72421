"""What the gateways do for batches: the lines of a file become jobs, and what they answer becomes files."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from deployments.errors import MotetError, fail
from serve_app.gateway.bodies.input_thread import in_input_thread
from serve_app.gateway.bodies.json_bodies import INLINE_BYTES
from serve_app.gateway.jobs import batch_jobs, batch_table, file_table, job_table
from serve_app.gateway.jobs.batch_input import MOST_MISTAKES, InputLine, lines_of, mistake, parsed
from serve_app.gateway.jobs.batch_jobs import QueuedLine
from serve_app.gateway.jobs.batch_output import BatchFiles
from serve_app.gateway.jobs.blobs import Blobs, Uploads
from serve_app.gateway.jobs.body_requests import of_body
from serve_app.gateway.jobs.database import JobDatabase
from serve_app.gateway.jobs.endpoints import ENDPOINTS
from serve_app.gateway.jobs.job_table import Line
from serve_app.gateway.jobs.records import Blob, Job, JobBatch, Viewer, new_id
from serve_app.gateway.jobs.settings import JobSettings

logger = logging.getLogger("ray.serve")

LINES_AT_ONCE = 200
"""Jobs that are read at once from the queue."""
PARSED_AT_ONCE = 50
"""Lines between which the event loop is free for others."""


class BatchRunner:
    """`clock` gives Unix seconds."""

    def __init__(
        self, settings: JobSettings, database: JobDatabase, blobs: Blobs, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._database = database
        self._blobs = blobs
        self._clock = clock
        self._told: dict[str, str] = {}
        """Why batches wait, as it was logged."""

    async def advance(self) -> bool:
        """Does what there is to do for the batches; whether there are new jobs."""
        added = False
        for batch in await self._database.run(batch_table.open_ones):
            try:
                added |= await self._advance(batch)
                self._told.pop(batch.id, None)
            except (MotetError, OSError) as error:
                if self._told.get(batch.id) != (cause := str(error)):  # once, however long it lasts
                    logger.warning("The batch %s waits: %s", batch.id, cause)
                    self._told[batch.id] = cause
        return added

    async def _advance(self, batch: JobBatch) -> bool:
        """Whether there are new jobs. Raises what keeps this batch from going on."""
        if batch.status == "validating":
            return await self._begin(batch)
        if batch.status == "cancelling" or batch.completed + batch.failed == batch.total:
            await self._end(batch)
        return False

    async def delete_old(self) -> None:
        """Deletes batches and files that are over their age."""
        await self._database.run(file_table.delete_old, self._clock())
        await self._database.run(batch_table.delete_old, self._settings, self._clock())

    async def _begin(self, batch: JobBatch) -> bool:
        """Reads the input, and queues its jobs or fails the batch."""
        async with self._blobs.uploads() as uploads:  # which are removed soon unless the batch begins
            return await self._begun(batch, uploads)

    async def _begun(self, batch: JobBatch, uploads: Uploads) -> bool:
        lines, mistakes = await self._lines(batch, uploads)
        if not mistakes and not lines:
            mistakes = [mistake(None, fail("invalid", "The file has no lines.", code="empty_file"))]
        if not mistakes:
            try:
                if begun := await self._database.run(batch_jobs.begin, batch, lines, self._settings, self._clock()):
                    return begun
                await uploads.release()
                return False
            except MotetError as error:
                if error.failure.code not in ("too_many_jobs", "too_many_files"):
                    raise
                mistakes = [mistake(None, error)]
        await self._database.run(batch_table.refuse, replace(batch, mistakes=tuple(mistakes)), self._clock())
        await uploads.release()
        return False

    async def _lines(self, batch: JobBatch, uploads: Uploads) -> tuple[list[QueuedLine], list[dict[str, Any]]]:
        """The lines, and what is wrong with them. Raises `MotetError` (unavailable) for what is wrong with the service."""
        found: list[QueuedLine] = []
        mistakes: list[dict[str, Any]] = []
        seen: set[str] = set()
        most_bytes, most = self._settings.max_line_bytes, self._settings.max_batch_lines
        try:
            async with aclosing(self._blobs.blocks(batch.input_digest)) as blocks:
                async for number, text in lines_of(blocks, most_bytes):
                    if len(found) == most:
                        raise fail("too_large", f"The file has over {most:,} lines.", code="too_many_lines")
                    try:
                        large = len(text) > INLINE_BYTES
                        line = await in_input_thread(large, parsed, number, text, batch.endpoint, seen)
                        found.append(await self._line(batch, line, uploads))
                    except MotetError as error:
                        _raise_if_unavailable(error)
                        mistakes.append(mistake(number, error))
                    if len(mistakes) == MOST_MISTAKES:
                        break
                    if number % PARSED_AT_ONCE == 0:
                        await asyncio.sleep(0)
        except MotetError as error:  # of the file as a whole
            _raise_if_unavailable(error)
            mistakes.append(mistake(None, error))
        return found, mistakes

    async def _line(self, batch: JobBatch, line: InputLine, uploads: Uploads) -> QueuedLine:
        find = partial(self._file_of, Viewer(batch.owner, exclusive=True))
        made = await of_body(ENDPOINTS[batch.endpoint], line.body, uploads, find)
        job = Job(new_id("job"), batch.owner, made.request, "queued", batch.created_at)
        return job, Line(batch.id, line.number, line.custom_id), made.blobs

    async def _file_of(self, viewer: Viewer, id: str) -> Blob:
        """The content of one of the owner's files."""
        return (await self._database.run(file_table.get, viewer, id)).blob

    async def _end(self, batch: JobBatch) -> None:
        """Writes the files of a batch whose jobs have ended, or which is cancelled."""
        now_s = self._clock()
        batch = await self._database.run(batch_jobs.delete_open, batch, now_s)
        async with BatchFiles(batch, self._blobs, now_s, now_s + self._settings.keep_files_s) as files:
            after = 0
            while lines := await self._database.run(job_table.lines_of, batch.id, after, LINES_AT_ONCE):
                for job, custom_id in lines:
                    await files.write(job, custom_id)
                    after = job.line or after
            made, ids = await files.close()
        cancelled = batch.status == "cancelling"
        times = {**batch.times, "cancelled_at" if cancelled else "completed_at": now_s}
        ended = replace(batch, status="cancelled" if cancelled else "completed", files=ids, times=times)
        if not await self._database.run(batch_jobs.end, batch, ended, made, now_s):
            await self._blobs.release([file.blob for file in made])


def _raise_if_unavailable(error: MotetError) -> None:
    """Such as a queue that is busy: no mistake of a batch, which waits."""
    if error.failure.kind == "unavailable":
        raise error
