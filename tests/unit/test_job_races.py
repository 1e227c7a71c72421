"""What jobs and batches do when two things happen at once, or one of them fails half-way: nothing is lost, nothing stays."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import MotetError, fail
from serve_app.gateway.jobs import batch_jobs, batch_table, blob_table, job_table
from serve_app.gateway.jobs.batch_output import BatchFiles
from serve_app.gateway.jobs.batch_runner import BatchRunner
from serve_app.gateway.jobs.batches import Batches
from serve_app.gateway.jobs.blob_store import BlobWriter
from serve_app.gateway.jobs.blobs import Blobs
from serve_app.gateway.jobs.database import JobDatabase
from serve_app.gateway.jobs.finished_parts import FinishedParts
from serve_app.gateway.jobs.job_table import Line
from serve_app.gateway.jobs.records import Blob, Job, JobAnswer, JobBatch, JobRequest, Viewer
from serve_app.gateway.jobs.settings import JobSettings
from tests.unit.test_blob_store import blobs_of, files_in
from tests.unit.test_job_routes import HELLO, JobBench

ME = Viewer("me", exclusive=True)
REQUEST = JobRequest("/v1/audio/transcriptions", (), ())
SETTINGS = JobSettings()
REFUSED = JobAnswer(400, error={"message": "No.", "type": "invalid_request_error", "param": None, "code": None})


class Queue:
    """A queue on disk whose clock stands still."""

    def __init__(self, folder: Path, **settings: int) -> None:
        self.folder = folder
        self.settings = JobSettings(folder=str(folder), **settings)
        self.blobs = blobs_of(folder, None, **settings)
        self.database: JobDatabase = self.blobs._database

    async def run(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return await self.database.run(work, *arguments, **named)

    async def running(self, id: str = "job_1") -> Job:
        await self.run(job_table.add_once, Job(id, "me", REQUEST, "queued", 0.0), self.settings, [], None)
        job: Job = await self.run(job_table.claim, "worker", self.settings, 0.0)
        return job

    def parts_of(self, job: Job) -> FinishedParts:
        return FinishedParts(job.id, self.blobs, self.database, self.settings, lambda: 0.0)

    async def files_after_a_sweep(self) -> int:
        await self.blobs.remove_unlinked()
        return len(files_in(self.folder))

    async def batch(self, *lines: Job, input: bytes = b"{}") -> JobBatch:
        """A batch that is in progress, or without lines in validation."""
        blob = await self.blobs.write_bytes(input)
        batch = JobBatch("batch_1", "me", "/v1/audio/speech", "file-1", blob.digest, "validating", 0.0)
        await self.run(batch_table.add, batch, blob, self.settings)
        if lines:
            queued = [(job, Line(batch.id, at, f"line-{at}"), ()) for at, job in enumerate(lines, 1)]
            await self.run(batch_jobs.begin, batch, queued, self.settings, 0.0)
        found: JobBatch = await self.run(batch_table.get, ME, batch.id)
        return found

    @property
    def batches(self) -> BatchRunner:
        return BatchRunner(self.settings, self.database, self.blobs, lambda: 0.0)


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path)


# --- Parts of jobs


async def test_a_part_of_a_job_that_was_deleted_meanwhile_is_not_kept(queue: Queue) -> None:
    """Whoever runs the job notices seconds later."""
    job = await queue.running()
    parts = queue.parts_of(job)
    await parts.keep("before", b"1")
    await queue.run(job_table.delete, job.id, 0.0)
    await parts.keep("after", b"2")
    assert await queue.run(blob_table.parts_of, job.id) == {}
    assert await queue.files_after_a_sweep() == 0


async def test_a_part_of_a_job_that_another_worker_ended_is_not_kept(queue: Queue) -> None:
    job = await queue.running()
    await queue.run(job_table.end, job.id, "worker", REFUSED, queue.settings, 0.0)
    await queue.parts_of(job).keep("late", b"1")
    assert await queue.run(blob_table.parts_of, job.id) == {}
    assert await queue.files_after_a_sweep() == 0


async def test_a_part_that_is_made_twice_is_there_once(queue: Queue) -> None:
    """As the chunks after a gap when a separation is taken up again. The first one stays."""
    parts = queue.parts_of(await queue.running())
    for data in (b"first", b"second"):
        await parts.keep("one", data)
    assert await parts.get("one") == b"first"
    assert await queue.files_after_a_sweep() == 1
    assert await queue.run(blob_table.total_bytes) == len(b"first")


async def test_a_job_that_lost_parts_begins_again_without_these(queue: Queue) -> None:
    """Each part that is found to be lost later costs an attempt, of which there are three."""
    job = await queue.running()
    parts = queue.parts_of(job)
    await parts.load()
    for number in range(5):
        await parts.keep(f"part-{number}", b"1")
    for file in (queue.folder / "files").rglob("part-[0-2]*"):
        await asyncio.to_thread(file.unlink)
    for file in (queue.folder / "files").rglob("part-3*"):
        await asyncio.to_thread(file.write_bytes, b"")  # as a loss of power leaves it
    again = queue.parts_of(job)
    await again.load()
    assert [again.has(f"part-{number}") for number in range(5)] == [False, False, False, False, True]
    assert await queue.files_after_a_sweep() == 1


async def test_parts_of_a_store_that_does_not_answer_count_as_there(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = queue.parts_of(await queue.running())
    await parts.keep("one", b"1")

    def away(folder: str) -> dict[str, int]:
        raise OSError("The store does not answer.")

    monkeypatch.setattr(queue.blobs.store, "sizes", away)
    await parts.load()
    assert await parts.get("one") == b"1"


async def test_a_job_that_ended_leaves_no_folder_of_parts(queue: Queue) -> None:
    job = await queue.running()
    await queue.parts_of(job).keep("one", b"1")
    await queue.run(job_table.end, job.id, "worker", REFUSED, queue.settings, 0.0)
    assert await queue.files_after_a_sweep() == 0
    assert list((queue.folder / "files" / "parts").iterdir()) == []


# --- Files that are removed while a holder comes


async def test_what_is_being_removed_gets_no_holder(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    blob, store = await queue.blobs.write_bytes(b"sound"), queue.blobs.store
    remove, refused = store.remove, list[MotetError]()

    def link_before(paths: Sequence[str]) -> list[str]:
        coming = asyncio.run_coroutine_threadsafe(queue.run(blob_table.link, "job_1", blob, 0.0), loop)
        with pytest.raises(MotetError) as error:
            coming.result()
        refused.append(error.value)
        return remove(paths)

    loop = asyncio.get_running_loop()
    queue.blobs._clock = lambda: blob_table.UNLINKED_AFTER_S
    monkeypatch.setattr(store, "remove", link_before)
    assert await queue.files_after_a_sweep() == 0
    assert [error.failure.code for error in refused] == ["content_gone"]


async def test_a_job_does_not_end_with_an_answer_that_was_removed(queue: Queue) -> None:
    job = await queue.running()
    blob = await queue.blobs.write_bytes(b"sound")
    await queue.blobs.release([blob])
    assert await queue.files_after_a_sweep() == 0
    done = JobAnswer(200, (("content-type", "audio/wav"),), blob)
    with pytest.raises(MotetError, match="not there any more"):
        await queue.run(job_table.end, job.id, "worker", done, queue.settings, 0.0)
    assert (await queue.run(job_table.get, ME, job.id)).status == "running"


async def test_a_part_that_is_being_removed_is_not_kept(queue: Queue) -> None:
    job = await queue.running()
    await queue.run(blob_table.expect, "parts/one", 1, 1000, 0.0)
    assert await queue.run(blob_table.removable, blob_table.UNLINKED_AFTER_S, 10) == ["parts/one"]
    assert await queue.run(blob_table.keep_part, job.id, "one", "parts/one", 1, 0.0) is None
    assert await queue.run(blob_table.parts_of, job.id) == {}


async def test_uploads_of_a_request_stay_however_long_it_takes(queue: Queue) -> None:
    """As those of a batch with many lines, while another gateway removes what nobody holds."""
    now_s = 0.0
    queue.blobs._clock = lambda: now_s
    async with queue.blobs.uploads() as uploads:
        for number in range(10):
            now_s += blob_table.UNLINKED_AFTER_S / 3
            await uploads.write_bytes(b"%d" % number)
            assert await queue.files_after_a_sweep() == number + 1


@pytest.mark.parametrize(("removed", "left"), [(False, 1), (True, 0)])
async def test_a_file_that_takes_long_to_move_stays_or_is_refused(
    removed: bool, left: int, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, put = 0.0, queue.blobs.store.put

    def slow(writer: BlobWriter, path: str) -> None:
        nonlocal now_s
        put(writer, path)
        now_s = blob_table.UNLINKED_AFTER_S
        if removed:
            asyncio.run_coroutine_threadsafe(queue.run(blob_table.removable, now_s, 10), loop).result()

    loop = asyncio.get_running_loop()
    queue.blobs._clock = lambda: now_s
    monkeypatch.setattr(queue.blobs.store, "put", slow)
    with pytest.raises(MotetError, match="took over an hour") if removed else nullcontext():
        await queue.blobs.write_bytes(b"sound")
    assert await queue.files_after_a_sweep() == left


# --- Batches


async def test_a_batch_that_begins_while_it_is_cancelled_is_cancelled(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, run = await queue.batch(), queue.database.run

    async def begins_before(work: Any, *arguments: Any) -> Any:
        if work is batch_table.cancel:
            line = Job("job_1", "me", REQUEST, "queued", 0.0), Line(batch.id, 1, "line"), ()
            await run(batch_jobs.begin, batch, [line], queue.settings, 0.0)
        return await run(work, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(queue.database, "run", begins_before)
        cancelled = await Batches(queue.settings, queue.database, lambda: 0.0).cancel(ME, batch.id)
    assert (cancelled.status, cancelled.total) == ("cancelling", 1)
    await queue.batches.advance()
    assert (await queue.run(batch_table.get, ME, batch.id)).status == "cancelled"


async def test_the_counts_of_a_cancelled_batch_are_those_of_its_files(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job ends after the gateway has read the batch."""
    job = Job("job_1", "me", REQUEST, "queued", 0.0)
    batch = await queue.batch(job)
    await queue.run(job_table.claim, "worker", queue.settings, 0.0)
    await queue.run(batch_table.cancel, ME, batch.id, 0.0)
    read = batch_table.open_ones

    def read_before_the_job_ended(connection: Any) -> list[JobBatch]:
        found = read(connection)
        job_table.end(connection, job.id, "worker", REFUSED, queue.settings, 0.0)
        return found

    monkeypatch.setattr(batch_table, "open_ones", read_before_the_job_ended)
    await queue.batches.advance()
    ended = await queue.run(batch_table.get, ME, batch.id)
    assert (ended.status, "error" in ended.files, ended.failed) == ("cancelled", True, 1)


async def test_a_queue_that_is_busy_does_not_fail_a_batch(queue: Queue) -> None:
    line = b'{"custom_id": "a", "method": "POST", "url": "/v1/audio/speech", "body": {"model": "m", "input": "%s"}}'
    batch = await queue.batch(input=line % (b"x" * 20_000))
    runner = queue.batches

    class Busy(Blobs):
        async def write_bytes(self, data: bytes) -> Blob:
            raise fail("unavailable", "The queue of jobs cannot be read or written.", code="jobs_unavailable")

    runner._blobs = Busy(queue.settings, queue.database, queue.folder)
    await runner.advance()
    assert (await queue.run(batch_table.get, ME, batch.id)).status == "validating"
    await queue.batches.advance()
    assert (await queue.run(batch_table.get, ME, batch.id)).status == "in_progress"


async def test_an_end_of_a_batch_for_which_there_is_no_room_leaves_nothing(queue: Queue) -> None:
    """It is tried again twice a second: what each try left would fill the store."""
    text = await queue.blobs.write_bytes(b'{"text": "hello"}')
    await queue.run(blob_table.link, "job_2", text, 0.0)
    done = JobAnswer(200, (("content-type", "application/json"),), text)
    jobs = [Job(f"job_{n}", "me", REQUEST, "completed", 0.0, answer=answer) for n, answer in ((1, REFUSED), (2, done))]
    batch = JobBatch("batch_1", "me", "/v1/audio/speech", "file-1", "", "in_progress", 0.0)
    queue.blobs._settings = replace_most(queue.settings, text.bytes + 600)
    before = len(files_in(queue.folder))
    with pytest.raises(MotetError) as full:
        async with BatchFiles(batch, queue.blobs, 0.0, 1.0) as files:
            for job in jobs:
                await files.write(job, "line" * 50)
            await files.close()
    assert full.value.failure.kind == "storage_full"
    assert await queue.files_after_a_sweep() == before


def replace_most(settings: JobSettings, most_bytes: int) -> JobSettings:
    return settings.model_copy(update={"max_bytes": most_bytes})


# --- The queue


async def test_a_job_that_is_refused_again_and_again_has_few_events(queue: Queue) -> None:
    job = await queue.running()
    for second in range(1, 50):
        again = (job.id, "worker", float(second), queue.settings)
        await queue.run(job_table.again, *again, counted=False, charged_seconds=0.0)
        await queue.run(job_table.claim, "worker", queue.settings, float(second))
    last = await queue.run(job_table.events_after, job.id, 0)
    assert [event.type for event in last] == ["job.queued", "job.running"]
    assert [event.number for event in last] == [99, 100]
    await queue.run(job_table.end, job.id, "worker", REFUSED, queue.settings, 50.0)
    assert [event.type for event in await queue.run(job_table.events_after, job.id, 100)] == ["job.failed"]


async def test_a_blob_is_on_the_disk_before_a_job_is_accepted(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    sync = os.fsync

    def noted(file: int) -> None:
        synced.add(os.fstat(file).st_ino)
        sync(file)

    monkeypatch.setattr(os, "fsync", noted)
    blob = await queue.blobs.write_bytes(b"a recording")
    path = queue.folder / "files" / blob.path
    assert {path.stat().st_ino, path.parent.stat().st_ino} <= synced  # its bytes, and its name


async def test_a_job_that_has_its_answer_when_its_gateway_stops_has_ended(tmp_path: Path) -> None:
    bench = JobBench(tmp_path)
    made = await bench.post(HELLO)
    database, runner = bench.runner._jobs.database, bench.runner
    ending, free = asyncio.Event(), threading.Event()
    run: Any = database.run

    async def busy(work: Any, *arguments: Any, **named: Any) -> Any:
        if work is job_table.end:
            database._thread.submit(free.wait, 10.0)  # another transaction is on the way
            ending.set()
        return await run(work, *arguments, **named)

    database.run = busy  # type: ignore[method-assign]
    await runner.look()
    await ending.wait()
    stopping = asyncio.create_task(runner._stop())
    for _ in range(10):  # until it waits for the job
        await asyncio.sleep(0)
    free.set()
    await stopping
    job = await bench.job(made)
    assert (job["status"], job["attempts"]) == ("completed", 1)
