"""The jobs of a service as its routes use them: made once, listed, followed and deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from starlette.requests import HTTPConnection

from serve_app.gateway.jobs import job_table
from serve_app.gateway.jobs.blobs import Blobs
from serve_app.gateway.jobs.database import JobDatabase
from serve_app.gateway.jobs.records import Blob, Job, JobEvent, JobRequest, Viewer, new_id
from serve_app.gateway.jobs.settings import JobSettings

LOOK_EVERY_S = 0.5
"""How often a client that follows a job is told what is new, and a gateway looks for work."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list. `more` is set if others follow."""

    jobs: Sequence[Job]
    more: bool


def steady_clock(
    wall: Callable[[], float] = time.time, passed: Callable[[], float] = time.monotonic
) -> Callable[[], float]:
    """A clock of Unix seconds that is read once from `wall`, and runs with `passed`: it does not jump if somebody sets the
    clock of the machine."""
    began_s = wall() - passed()
    return lambda: began_s + passed()


class Jobs:
    """Belongs to one event loop. Everything raises `MotetError` (unavailable) if the queue cannot be opened. `clock` gives
    Unix seconds; the default one does not jump, because the leases of running jobs would be over then. `service` is the
    identity of the service, to which the folder belongs while it runs."""

    def __init__(self, settings: JobSettings, clock: Callable[[], float] | None = None, *, service: str = "") -> None:
        folder = Path(settings.folder).expanduser()
        self.settings = settings
        self.clock = clock = clock or steady_clock()
        self.database = JobDatabase(folder, service)
        self.blobs = Blobs(settings, self.database, folder, clock)
        self.added = asyncio.Event()
        """Set when there is work, for the runner of this process."""

    async def add(
        self, viewer: Viewer, request: JobRequest, blobs: Sequence[Blob], key: str | None
    ) -> tuple[Job, bool]:
        """The job of a request that holds `blobs`, and whether it is new: with an idempotency key it is made once. Raises
        `MotetError` (conflict, overloaded)."""
        job = Job(new_id("job"), viewer.name, request, "queued", self.clock())
        found = await self.database.run(job_table.add_once, job, self.settings, blobs, key)
        self.added.set()
        return found, found.id == job.id

    async def get(self, viewer: Viewer, id: str) -> Job:
        """A job. Raises `MotetError` (not_found)."""
        return await self.database.run(job_table.get, viewer, id)

    async def listed(self, viewer: Viewer, after: str | None, limit: int, *, newest_first: bool) -> Page:
        """The viewer's own jobs."""
        jobs = await self.database.run(job_table.listed, viewer.name, after, limit + 1, newest_first=newest_first)
        return Page(jobs[:limit], len(jobs) > limit)

    async def delete(self, viewer: Viewer, id: str) -> None:
        """Cancels a job and deletes it with all that it holds. Raises `MotetError` (not_found)."""
        await self.get(viewer, id)
        await self.database.run(job_table.delete, id, self.clock())
        self.added.set()

    async def events(self, viewer: Viewer, id: str, after: int) -> AsyncGenerator[JobEvent | None]:
        """The events of a job after that number, until it ends; None when there was nothing new for a while. Raises
        `MotetError` (not_found), also when it is deleted."""
        while True:
            job = await self.get(viewer, id)
            for event in await self.database.run(job_table.events_after, id, after):
                after = event.number
                yield event
            if job.over:
                return
            yield None
            await asyncio.sleep(LOOK_EVERY_S)


def jobs_of(connection: HTTPConnection) -> Jobs:
    """The jobs of the application that answers this request."""
    return cast(Jobs, connection.app.state.jobs)
