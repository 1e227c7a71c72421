"""Runs the jobs of the queue in a gateway, each through the application's own routes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Coroutine
from typing import Any, Protocol

from starlette.types import ASGIApp

from deployments.errors import MotetError, as_failure, fail
from serve_app.gateway.draining import Drain
from serve_app.gateway.errors import STATUS, error_fields, log_unexpected
from serve_app.gateway.jobs import job_table
from serve_app.gateway.jobs.context import JOB, RunningJob
from serve_app.gateway.jobs.finished_parts import FinishedParts
from serve_app.gateway.jobs.in_process import IncompleteAnswerError, Refusal, answer_of
from serve_app.gateway.jobs.job_table import Progress
from serve_app.gateway.jobs.jobs import LOOK_EVERY_S, Jobs
from serve_app.gateway.jobs.records import Job, JobAnswer

logger = logging.getLogger("ray.serve")

RENEWALS = 5
"""Renewals of a lease within its time. Each of them notes the job's progress."""
SWEEP_EVERY_S = 60.0
LOOK_AGAIN_S = 10.0
"""How long a gateway waits after the queue could not be read."""
AGAIN_AFTER_S = 2.0
"""How long a job waits after a failure in the service, times the attempts so far."""


class Advances(Protocol):
    """The batches: see `BatchRunner`."""

    async def advance(self) -> bool:
        """Does what there is to do; whether there are new jobs."""

    async def delete_old(self) -> None:
        """Deletes what is over its age."""


class JobRunner:
    """Runs jobs until it is stopped, and has batches advanced. When the gateway drains, its jobs go back into the queue, and
    a drain waits for that. `signs` says whether jobs have API keys as owners."""

    def __init__(self, jobs: Jobs, app: ASGIApp, batches: Advances, drain: Drain, *, signs: bool) -> None:
        self._jobs = jobs
        self._app = app
        self._signs = signs
        self._batches = batches
        self._drain = drain
        self._running: set[asyncio.Task[None]] = set()
        self._chores: asyncio.Task[None] | None = None
        self._swept_s = float("-inf")

    async def run(self) -> None:
        """Begins jobs as there is room for them, until this call is cancelled; then jobs that run go back into the queue."""
        told = ""
        try:
            while True:
                self._jobs.added.clear()
                pause_s = LOOK_AGAIN_S
                try:
                    await (self._stop() if self._drain.begun else self.look())
                    pause_s, told = LOOK_EVERY_S, ""
                except MotetError as error:
                    if told != (told := str(error)):  # once, however long it lasts
                        logger.warning("Jobs wait: %s", error)
                except Exception as error:
                    log_unexpected(error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._jobs.added.wait(), pause_s)
        finally:
            await self._stop()

    async def look(self) -> None:
        """Begins what can begin now, also the chores."""
        jobs = self._jobs
        while True:
            worker = secrets.token_hex(8)  # of one attempt: whoever loses a lease does not get it back
            job = await jobs.database.run(job_table.claim, worker, jobs.settings, jobs.clock())
            if job is None:
                break
            self._start(self._counted(job, worker))
        if self._chores is None or self._chores.done():
            self._chores = self._start(self._do_chores())

    async def _counted(self, job: Job, worker: str) -> None:
        with self._drain.one():
            await self._run(job, worker)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log_unexpected(error)

    async def _do_chores(self) -> None:
        """Now and then removes what is over its age, which makes room, and advances the batches."""
        jobs = self._jobs
        if jobs.clock() - self._swept_s >= SWEEP_EVERY_S:
            self._swept_s = jobs.clock()
            await jobs.database.run(job_table.delete_old, jobs.settings, jobs.clock())
            await self._batches.delete_old()
            await jobs.blobs.remove_unlinked()
        if await self._batches.advance():
            jobs.added.set()

    async def idle(self) -> None:
        """Waits for the jobs that run now, and for the chores."""
        if self._running:
            await asyncio.wait(self._running)

    async def _stop(self) -> None:
        for task in self._running:
            task.cancel()
        await self.idle()

    async def _run(self, job: Job, worker: str) -> None:
        """Runs a job to its end, or back into the queue."""
        jobs = self._jobs
        parts = FinishedParts(job.id, jobs.blobs, jobs.database, jobs.settings, jobs.clock)
        last = job.attempts >= jobs.settings.attempts
        running = RunningJob(parts, charged_seconds=job.seconds_charged, last_attempt=last)
        answering = asyncio.create_task(self._answer(job, running, parts))
        keeping = asyncio.create_task(self._keep(job, worker, running, answering))
        outcome: JobAnswer | Refusal | Exception
        try:
            outcome = await answering
        except asyncio.CancelledError:  # the job was deleted, or the gateway ends
            answering.cancel()
            await asyncio.wait({answering})
            if answering.cancelled() or answering.exception():
                await asyncio.shield(self._again(job, worker, running, jobs.clock(), counted=False))
                return
            outcome = answering.result()  # it was there already
        except Exception as error:
            outcome = error
        finally:
            keeping.cancel()
        await _to_its_end(self._end(job, worker, running, outcome))
        jobs.added.set()

    async def _answer(self, job: Job, running: RunningJob, parts: FinishedParts) -> JobAnswer | Refusal:
        JOB.set(running)
        await parts.load()
        signer, most_s = job.owner if self._signs else None, self._jobs.settings.max_run_s
        try:
            async with asyncio.timeout(most_s) as timer:
                return await answer_of(self._app, job.request, job.id, signer, self._jobs.blobs)
        except TimeoutError as error:
            if not timer.expired():
                raise
            cause = f"The job took longer than the {most_s:g} s that are allowed."
            raise fail("timeout", cause, "Divide it into several.", code="deadline") from error

    async def _keep(
        self, job: Job, worker: str, running: RunningJob, answering: asyncio.Task[JobAnswer | Refusal]
    ) -> None:
        """Renews the lease, and ends the job if it is not ours any more."""
        jobs = self._jobs
        while True:
            await asyncio.sleep(jobs.settings.lease_s / RENEWALS)
            place = running.progress
            done_s, all_s = (place.made_seconds, place.asked) if place else (0.0, None)
            progress = Progress(done_s, all_s, running.charged_seconds)
            with contextlib.suppress(MotetError):  # a busy disk: the lease lasts for some more
                if not await jobs.database.run(job_table.renew, job, worker, jobs.settings, jobs.clock(), progress):
                    answering.cancel()
                    return

    async def _again(self, job: Job, worker: str, running: RunningJob, not_before_s: float, *, counted: bool) -> None:
        """Puts a job back into the queue."""
        jobs, charged_seconds = self._jobs, running.charged_seconds
        await jobs.database.run(
            job_table.again,
            job.id,
            worker,
            not_before_s,
            jobs.settings,
            counted=counted,
            charged_seconds=charged_seconds,
        )

    async def _end(self, job: Job, worker: str, running: RunningJob, outcome: JobAnswer | Refusal | Exception) -> None:
        jobs, now_s = self._jobs, self._jobs.clock()
        if isinstance(outcome, Refusal):
            await self._again(job, worker, running, now_s + outcome.seconds, counted=False)
            return
        answer = outcome if isinstance(outcome, JobAnswer) else _failed(outcome)
        if answer.status in (500, 503) and running.again:
            counted = not running.parts.advanced
            await self._again(job, worker, running, now_s + AGAIN_AFTER_S * job.attempts, counted=counted)
            return
        if not await jobs.database.run(job_table.end, job.id, worker, answer, jobs.settings, now_s):
            logger.info("The result of %s is dropped: the job was deleted or taken over.", job.id)


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Does the work, also if this task is cancelled meanwhile: an answer that is there is not made again."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        task.result()


def _failed(error: Exception) -> JobAnswer:
    """The answer of a job that failed outside its endpoint."""
    if not isinstance(error, IncompleteAnswerError | MotetError):
        log_unexpected(error)
    failure = as_failure(error)
    return JobAnswer(STATUS[failure.kind][0], error=error_fields(failure))
