"""The queue of jobs: made once, begun in turn, taken up again, bounded, and deleted with all that they hold."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import MotetError
from serve_app.gateway.jobs import batch_jobs, batch_table, blob_table, file_table, job_table
from serve_app.gateway.jobs.blob_table import Part
from serve_app.gateway.jobs.database import JobDatabase
from serve_app.gateway.jobs.job_table import Line, Progress
from serve_app.gateway.jobs.jobs import steady_clock
from serve_app.gateway.jobs.records import Blob, Job, JobAnswer, JobBatch, JobRequest, StoredFile, Viewer
from serve_app.gateway.jobs.settings import JobSettings

Run = Callable[..., Any]
SOUND = Blob("a" * 64, "aa/sound", 100)
TEXT = Blob("b" * 64, "bb/text", 10)
DONE = JobAnswer(200, (("content-type", "application/json"),), TEXT)
REFUSED = JobAnswer(400, error={"message": "No.", "type": "invalid_request_error", "param": None, "code": None})
SETTINGS = JobSettings(keep_s=1000.0, max_wait_s=500.0, lease_s=10.0)

_numbers = itertools.count()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A queue in whose store two files were written."""
    run = JobDatabase(tmp_path).run_here
    write(run, SOUND)
    write(run, TEXT)
    return run


def write(run: Run, blob: Blob) -> None:
    """Lists a file that nobody holds yet, for a time after those of all tests."""
    run(blob_table.expect, blob.path, blob.bytes, 10**6, 1e15)


def a_job(owner: str = "me", *, at: float = 0.0, **fields: str) -> Job:
    request = JobRequest("/v1/audio/transcriptions", tuple(fields.items()), (("file", SOUND.digest),))
    return Job(f"job_{next(_numbers):03}", owner, request, "queued", at)


def queued(run: Run, *jobs: Job, settings: JobSettings = SETTINGS) -> None:
    for job in jobs:
        run(job_table.add_once, job, settings, [SOUND], None)


def begun(run: Run, worker: str = "worker", *, at: float = 0.0, settings: JobSettings = SETTINGS) -> Job | None:
    found: Job | None = run(job_table.claim, worker, settings, at)
    return found


def state(run: Run, job: Job) -> Job:
    found: Job = run(job_table.get, Viewer(job.owner, True), job.id)
    return found


def events(run: Run, job: Job, after: int = 0) -> list[str]:
    return [event.type for event in run(job_table.events_after, job.id, after)]


def removable(run: Run) -> list[str]:
    return sorted(run(blob_table.removable, 1e12, 100))


def test_a_job_goes_from_the_queue_to_its_end(run: Run) -> None:
    job = a_job()
    queued(run, job)
    assert state(run, job).status == "queued"
    started = begun(run, at=5.0)
    assert started is not None
    assert (started.id, started.status, started.attempts, started.started_at) == (job.id, "running", 1, 5.0)
    assert begun(run, at=6.0) is None
    assert run(job_table.end, job.id, "worker", DONE, SETTINGS, 7.0)
    ended = state(run, job)
    assert (ended.status, ended.finished_at, ended.answer) == ("completed", 7.0, DONE)
    assert events(run, job) == ["job.queued", "job.running", "job.completed"]
    assert events(run, job, after=2) == ["job.completed"]
    assert begun(run, at=8.0) is None


def test_a_refusal_is_a_failed_job(run: Run) -> None:
    job = a_job()
    queued(run, job)
    begun(run)
    run(job_table.end, job.id, "worker", REFUSED, SETTINGS, 1.0)
    assert state(run, job).as_json(SETTINGS.keep_s) | {"error": None} == {
        "id": job.id,
        "object": "job",
        "endpoint": "/v1/audio/transcriptions",
        "status": "failed",
        "created_at": 0,
        "started_at": 0,
        "finished_at": 1,
        "expires_at": 1001,
        "attempts": 1,
        "seconds_done": 0.0,
        "seconds_expected": None,
        "batch_id": None,
        "result": None,
        "error": None,
    }


def test_a_key_makes_a_job_once_for_ever(run: Run) -> None:
    first, again, other = a_job(model="ear"), a_job(model="ear"), a_job(model="other")
    assert run(job_table.add_once, first, SETTINGS, [SOUND], "key").id == first.id
    assert run(job_table.add_once, again, SETTINGS, [SOUND], "key").id == first.id
    assert run(job_table.add_once, a_job("you", model="ear"), SETTINGS, [SOUND], "key").id != first.id
    with pytest.raises(MotetError, match="another request") as reused:
        run(job_table.add_once, other, SETTINGS, [SOUND], "key")
    assert reused.value.failure.kind == "conflict"
    run(job_table.delete, first.id, 1.0)
    with pytest.raises(MotetError, match="was deleted"):
        run(job_table.add_once, again, SETTINGS, [SOUND], "key")


def test_what_was_uploaded_a_second_time_is_removed(run: Run) -> None:
    run(job_table.add_once, a_job(), SETTINGS, [SOUND], "key")
    copy = Blob(SOUND.digest, "aa/copy", 100)
    run(blob_table.expect, copy.path, copy.bytes, 1000, 0.0)
    run(job_table.add_once, a_job(), SETTINGS, [copy], "key")
    assert removable(run) == ["aa/copy"]


def test_the_client_of_whom_fewest_run_is_next_and_jobs_before_batches(run: Run) -> None:
    settings = SETTINGS.model_copy(update={"running_at_once": 3})
    mine, later, yours = a_job("me", at=0.0), a_job("me", at=1.0), a_job("you", at=2.0)
    line = a_job("she", at=0.0)
    run(job_table.add_lines, [(line, job_table.Line("batch_1", 1, "one"), [])], settings)
    queued(run, mine, later, yours, settings=settings)
    order = [job.id for _ in range(3) if (job := begun(run, at=3.0, settings=settings))]
    assert order == [mine.id, yours.id, line.id]
    assert begun(run, at=3.0, settings=settings) is None


def test_a_job_whose_worker_is_lost_is_taken_up_again_and_fails_in_the_end(run: Run) -> None:
    job = a_job()
    queued(run, job)
    for attempt in range(1, SETTINGS.attempts + 1):
        started = begun(run, f"worker-{attempt}", at=attempt * 11.0)
        assert started is not None
        assert started.attempts == attempt
    assert not run(job_table.end, job.id, "worker-1", DONE, SETTINGS, 34.0)
    assert not run(job_table.renew, job, "worker-1", SETTINGS, 34.0, Progress(1.0))
    assert begun(run, "worker-4", at=44.0) is None
    failed = state(run, job)
    assert failed.status == "failed"
    assert failed.answer is not None
    assert failed.answer.error is not None
    assert failed.answer.error["code"] == "job_interrupted"


def test_a_lease_from_before_the_clock_was_set_back_is_over(run: Run) -> None:
    """A service that was killed, and started again with an earlier time."""
    job = a_job(at=4900.0)
    queued(run, job)
    begun(run, "before", at=5000.0)
    assert begun(run, "other", at=4995.0) is None
    again = begun(run, "after", at=400.0)
    assert again is not None and (again.id, again.attempts) == (job.id, 2)


def test_the_clock_of_jobs_does_not_jump() -> None:
    wall, passed = [1000.0], [50.0]
    clock = steady_clock(lambda: wall[0], lambda: passed[0])
    assert clock() == 1000.0
    wall[0], passed[0] = 4600.0, 51.0  # somebody sets the clock forward by an hour
    assert clock() == 1001.0


def test_a_lease_that_is_renewed_lasts(run: Run) -> None:
    job = a_job()
    queued(run, job)
    begun(run, at=0.0)
    assert run(job_table.renew, job, "worker", SETTINGS, 9.0, Progress(3.0, 60.0, 2.5))
    assert begun(run, "other", at=12.0) is None
    assert (state(run, job).seconds_done, state(run, job).seconds_expected) == (3.0, 60.0)
    assert state(run, job).seconds_charged == 2.5
    run(job_table.renew, job, "worker", SETTINGS, 12.0, Progress(9.0, 60.0, 2.5))
    assert events(run, job) == ["job.queued", "job.running", "job.progress"]
    assert events(run, job, after=2) == ["job.progress"]


def test_a_job_that_was_refused_waits_and_did_not_begin(run: Run) -> None:
    job = a_job()
    queued(run, job)
    begun(run)
    run(job_table.again, job.id, "worker", 30.0, SETTINGS, counted=False, charged_seconds=4.0)
    assert (state(run, job).status, state(run, job).attempts, state(run, job).seconds_charged) == ("queued", 0, 4.0)
    assert begun(run, at=29.0) is None
    assert begun(run, at=30.0) is not None


def test_a_job_that_waits_too_long_fails(run: Run) -> None:
    job = a_job()
    queued(run, job)
    assert begun(run, at=500.0) is None
    answer = state(run, job).answer
    assert answer is not None
    assert answer.error is not None
    assert (answer.status, answer.error["code"]) == (408, "job_expired")


def test_nobody_else_sees_a_job_where_there_are_keys(run: Run) -> None:
    job = a_job("me")
    queued(run, job)
    with pytest.raises(MotetError, match="There is no job"):
        run(job_table.get, Viewer("you", exclusive=True), job.id)
    assert run(job_table.get, Viewer("you", exclusive=False), job.id).id == job.id
    assert run(job_table.listed, "you", None, 10, newest_first=True) == []


def test_jobs_are_bounded_for_a_client_and_for_all(run: Run) -> None:
    settings = JobSettings(max_jobs=3, max_jobs_per_client=2)
    queued(run, a_job("me"), a_job("me"), a_job("you"), settings=settings)
    for owner, whose in (("me", "This client"), ("she", "The service")):
        with pytest.raises(MotetError, match=whose) as refused:
            queued(run, a_job(owner), settings=settings)
        assert refused.value.failure.code == "too_many_jobs"


def begin_batch(run: Run, owner: str, settings: JobSettings) -> JobBatch:
    made_s = float(next(_numbers))
    batch = JobBatch(f"batch_{made_s}", owner, "/v1/audio/speech", "file-1", TEXT.digest, "validating", made_s)
    run(batch_table.add, batch, TEXT, settings)
    return batch


def test_open_batches_are_bounded_for_a_client_and_for_all(run: Run) -> None:
    settings = JobSettings(max_batches=3, max_batches_per_client=2)
    first, *_ = (begin_batch(run, owner, settings) for owner in ("me", "me", "you"))
    for owner, whose in (("me", "This client .* Cancel some"), ("she", "The service .* Try again later")):
        with pytest.raises(MotetError, match=whose) as refused:
            begin_batch(run, owner, settings)
        assert (refused.value.failure.kind, refused.value.failure.code) == ("overloaded", "too_many_batches")
    run(batch_table.refuse, first, 1.0)
    begin_batch(run, "me", settings)


@pytest.mark.parametrize(("most", "most_per_client", "left"), [(9, 2, ["me", "me", "you"]), (2, 2, ["me", "you"])])
def test_as_many_batches_that_failed_are_listed_as_may_be_open(
    most: int, most_per_client: int, left: list[str], run: Run
) -> None:
    settings = JobSettings(max_batches=most, max_batches_per_client=most_per_client)
    for owner in ("you", "me", "me", "me"):
        run(batch_table.refuse, begin_batch(run, owner, settings), 1.0)
    last = begin_batch(run, "me", settings)
    found = [batch for owner in ("me", "you") for batch in run(batch_table.listed, owner, None, 10)]
    assert found[0].id == last.id
    assert [batch.owner for batch in found[1:]] == left


def test_batches_with_results_are_listed_as_long_as_their_files_are_kept(run: Run) -> None:
    settings = JobSettings(max_batches=9, max_batches_per_client=2, keep_files_s=100.0)
    kept: list[str] = []
    for ended_s in (20.0, 10.0, 30.0):
        batch = begin_batch(run, "me", settings)
        output = StoredFile(f"file-{batch.id}", "me", SOUND, "output.jsonl", "batch_output", 0.0, 1000.0)
        run(file_table.add, [output])
        times, files = {"completed_at": ended_s}, {"output": output.id}
        run(batch_table.write, replace(batch, status="completed", times=times, files=files))
        kept.append(batch.id)
    begin_batch(run, "me", settings)
    assert {batch.id for batch in run(batch_table.listed, "me", None, 10)} >= set(kept)
    run(batch_table.delete_old, settings, 120.0)
    assert [batch.id for batch in run(batch_table.listed, "me", None, 10)][1:] == [kept[2]]


def test_batches_whose_files_were_deleted_are_bounded_like_those_that_failed(run: Run) -> None:
    settings = JobSettings(max_batches=9, max_batches_per_client=2)
    for number in range(4):
        batch = begin_batch(run, "me", settings)
        run(batch_table.write, replace(batch, status="completed", files={"error": f"file-gone-{number}"}))
    begin_batch(run, "me", settings)
    assert len(run(batch_table.listed, "me", None, 10)) == 3


def test_the_answers_of_batches_count_as_files_of_their_client_before_they_are_made(run: Run) -> None:
    settings = JobSettings(max_files_per_client=6)
    first, second = (begin_batch(run, "me", settings) for _ in range(2))
    lines = [(a_job(), Line(first.id, number, str(number)), [SOUND]) for number in range(3)]
    assert run(batch_jobs.begin, first, lines, settings, 0.0)
    assert not run(batch_jobs.begin, first, lines, settings, 0.0)
    with pytest.raises(MotetError, match="3 files and lines of batches") as refused:
        run(batch_jobs.begin, second, [(a_job(), Line(second.id, n, str(n)), [SOUND]) for n in range(2)], settings, 0.0)
    assert (refused.value.failure.kind, refused.value.failure.code) == ("overloaded", "too_many_files")


def test_a_file_that_cannot_be_removed_is_tried_again_later(run: Run) -> None:
    job = a_job()
    queued(run, job)
    run(job_table.delete, job.id, 1.0)
    assert removable(run) == [SOUND.path]
    run(blob_table.removed, [SOUND.path], [SOUND.path], 500.0)
    assert run(blob_table.removable, 499.0, 100) == []
    assert run(blob_table.removable, 500.0, 100) == [SOUND.path]
    run(blob_table.removed, [SOUND.path], [], 0.0)
    assert removable(run) == []


def test_batches_without_results_go_in_the_order_in_which_they_ended(run: Run) -> None:
    settings = JobSettings(max_batches=9, max_batches_per_client=2)
    long, short = (begin_batch(run, "me", settings) for _ in range(2))
    run(batch_table.refuse, short, 10.0)
    run(batch_table.refuse, long, 20.0)
    last = begin_batch(run, "me", settings)
    run(batch_table.refuse, last, 30.0)
    newest = begin_batch(run, "me", settings)
    assert [batch.id for batch in run(batch_table.listed, "me", None, 10)] == [newest.id, last.id, long.id]


def test_a_page_of_batches_begins_after_one_of_the_clients_own(run: Run) -> None:
    first, second = (begin_batch(run, "me", JobSettings()) for _ in range(2))
    assert [batch.id for batch in run(batch_table.listed, "me", second.id, 10)] == [first.id]
    for owner, after in (("me", "batch_none"), ("me", ""), ("you", second.id)):
        with pytest.raises(MotetError, match="does not exist") as refused:
            run(batch_table.listed, owner, after, 10)
        assert (refused.value.failure.kind, refused.value.failure.param) == ("not_found", "after")


def test_pages_of_jobs_and_files_begin_after_one_of_the_clients_own(run: Run) -> None:
    job = a_job(at=1.0)
    queued(run, job)
    for owner, after in ((job.owner, "job_none"), (job.owner, ""), ("you", job.id)):
        with pytest.raises(MotetError, match="does not exist") as refused:
            run(job_table.listed, owner, after, 10, newest_first=True)
        assert (refused.value.failure.kind, refused.value.failure.param) == ("not_found", "after")
        with pytest.raises(MotetError, match="The file"):
            run(file_table.listed, owner, None, after, 10, newest_first=True)


def test_lists_have_pages(run: Run) -> None:
    jobs = [a_job(at=float(number)) for number in range(5)]
    queued(run, *jobs)
    oldest = [job.id for job in jobs]
    for newest_first, order in ((True, oldest[::-1]), (False, oldest)):
        first = run(job_table.listed, "me", None, 3, newest_first=newest_first)
        rest = run(job_table.listed, "me", first[-1].id, 3, newest_first=newest_first)
        assert [job.id for job in (*first, *rest)] == order


def test_a_blob_stays_as_long_as_somebody_holds_it(run: Run) -> None:
    first, second = a_job(), a_job()
    queued(run, first, second)
    run(job_table.delete, first.id, 1.0)
    assert removable(run) == []
    run(job_table.delete, second.id, 1.0)
    assert removable(run) == [SOUND.path]
    run(blob_table.removed, [SOUND.path], [], 1e12)
    assert removable(run) == []
    assert run(blob_table.total_bytes) == TEXT.bytes


def test_equal_contents_are_stored_once(run: Run) -> None:
    copy = Blob(SOUND.digest, "aa/copy", 100)
    run(blob_table.link, "one", SOUND, 0.0)
    run(blob_table.link, "two", copy, 0.0)
    assert run(blob_table.blob_of, SOUND.digest) == SOUND
    assert removable(run) == ["aa/copy"]


def test_bytes_are_bounded(run: Run) -> None:
    run(blob_table.link, "one", SOUND, 0.0)
    most = SOUND.bytes + TEXT.bytes + 50
    run(blob_table.expect, "cc/new", 50, most, 0.0)
    with pytest.raises(MotetError) as full:
        run(blob_table.expect, "cc/newer", 1, most, 0.0)
    assert (full.value.failure.kind, full.value.failure.code) == ("storage_full", "jobs_full")


def test_finished_parts_are_dropped_when_the_job_ends(run: Run) -> None:
    job = a_job()
    queued(run, job)
    begun(run)
    run(blob_table.expect, "parts/one", 5, 1000, 0.0)
    run(blob_table.keep_part, job.id, "address", "parts/one", 5, 0.0)
    assert run(blob_table.parts_of, job.id) == {"address": Part("parts/one", 5)}
    run(job_table.end, job.id, "worker", DONE, SETTINGS, 1.0)
    assert run(blob_table.parts_of, job.id) == {}
    assert removable(run) == ["parts/one"]


def test_finished_jobs_have_an_age(run: Run) -> None:
    old, new, waiting = a_job(), a_job(), a_job(at=10.0)
    queued(run, old, new, waiting)
    for job, end_s in ((old, 1.0), (new, 5.0)):
        begun(run)
        run(job_table.end, job.id, "worker", DONE, SETTINGS, end_s)
    assert run(job_table.delete_old, SETTINGS, 1001.0) == 1
    assert [job.id for job in run(job_table.listed, "me", None, 10, newest_first=False)] == [new.id, waiting.id]


def test_a_database_of_another_version_is_left_alone(tmp_path: Path) -> None:
    JobDatabase(tmp_path).run_here(lambda connection: connection.execute("PRAGMA user_version = 99"))
    with pytest.raises(MotetError) as refused:
        JobDatabase(tmp_path).run_here(blob_table.total_bytes)
    assert refused.value.failure.code == "jobs_unavailable"


def test_jobs_of_the_first_version_go_on(tmp_path: Path) -> None:
    """A service that is updated has jobs in its queue, of which no audio was charged yet."""
    folder, job = tmp_path / "jobs", a_job()
    first = JobDatabase(folder)
    write(first.run_here, SOUND)
    queued(first.run_here, job)
    first.run_here(lambda connection: connection.execute("ALTER TABLE jobs DROP COLUMN seconds_charged"))
    first.run_here(lambda connection: connection.execute("PRAGMA user_version = 1"))
    for _ in range(2):
        assert state(JobDatabase(folder).run_here, job).seconds_charged == 0.0


def test_a_folder_that_cannot_be_made_is_a_failure_of_the_jobs_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MotetError) as refused:
        JobDatabase(tmp_path / "file" / "jobs").run_here(blob_table.total_bytes)
    assert refused.value.failure.code == "jobs_unavailable"


def test_files_are_listed_by_purpose_and_expire(run: Run) -> None:
    settings = JobSettings(max_files_per_client=2)

    def add(id: str, purpose: str, expires_at: float) -> None:
        run(file_table.add_upload, StoredFile(id, "me", SOUND, "a.wav", purpose, 0.0, expires_at), settings)

    add("file-1", "batch", 10.0)
    add("file-2", "user_data", 20.0)
    with pytest.raises(MotetError, match="This client has 2 files"):
        add("file-3", "batch", 10.0)
    found = run(file_table.listed, "me", "batch", None, 10, newest_first=True)
    assert [file.id for file in found] == ["file-1"]
    run(file_table.delete_old, 10.0)
    assert [file.id for file in run(file_table.listed, "me", None, None, 10, newest_first=True)] == ["file-2"]
    assert removable(run) == []
    run(file_table.delete, "file-2", 11.0)
    assert removable(run) == [SOUND.path]
