"""The queue of jobs: what is made, begun, ended and deleted, and the events of it.

Everything here is part of a transaction: see `JobDatabase`. A job goes from `queued` to `running`, and from there to
`completed` or `failed`, or back to `queued`. Whoever runs it holds a lease, and renews it; a job whose lease is over is taken
up again, at most `attempts` times in all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from sqlite3 import Connection, Row
from typing import Any

from deployments.errors import fail, quoted
from serve_app.gateway.jobs import blob_table
from serve_app.gateway.jobs.pages import EARLIEST, LATEST, place_of
from serve_app.gateway.jobs.records import Blob, Job, JobAnswer, JobEvent, JobRequest, Viewer
from serve_app.gateway.jobs.settings import JobSettings

MOST_KEYS = 1_000_000
"""Idempotency keys that are remembered, also of jobs that were deleted. A row has about 250 bytes."""

NEWEST_FIRST = """
SELECT * FROM jobs WHERE owner = ? AND batch IS NULL AND (created_at, id) < (?, ?)
ORDER BY created_at DESC, id DESC LIMIT ?
"""
OLDEST_FIRST = NEWEST_FIRST.replace("<", ">").replace(" DESC", "")

OLD_AFTER = {
    "job.queued": ("job.queued", "job.running", "job.progress"),
    "job.running": ("job.running", "job.progress"),
    "job.progress": ("job.progress",),
}
"""Events of an attempt are dropped when the next one waits or begins: a job that is refused for a day has thousands."""

INTERRUPTED = {
    "message": "The service was interrupted each time that it ran this job. Make it again.",
    "type": "server_error",
    "param": None,
    "code": "job_interrupted",
}


@dataclass(frozen=True, slots=True)
class Line:
    """The place of a job in a batch."""

    batch: str
    number: int
    custom_id: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is, in seconds of audio, and how many of them were taken from the quota of its key."""

    seconds_done: float = 0.0
    seconds_expected: float | None = None
    seconds_charged: float = 0.0


def find_key(connection: Connection, owner: str, key: str, request: JobRequest) -> Job | None:
    """The job that was made with an idempotency key; None if there is none. Raises `MotetError` (conflict) if it was made for
    another request, or was deleted."""
    row = connection.execute("SELECT * FROM keys WHERE owner = ? AND key = ?", (owner, key)).fetchone()
    if row is None:
        return None
    if row["fingerprint"] != request.fingerprint:
        cause = f"The Idempotency-Key {quoted(key)} was used for another request."
        raise _conflict(cause, "idempotency_key_reused")
    job = _found(connection, row["job"])
    if job is None:
        cause = f"The Idempotency-Key {quoted(key)} made the job {row['job']}, which was deleted since."
        raise _conflict(cause, "idempotency_key_used")
    return job


def add_once(connection: Connection, job: Job, settings: JobSettings, blobs: Sequence[Blob], key: str | None) -> Job:
    """Queues a job that holds `blobs`, unless its key made one already, and returns the one that there is. Raises
    `MotetError`: overloaded if there are too many, and what `find_key` raises."""
    if key is not None and (made := find_key(connection, job.owner, key, job.request)):
        blob_table.release(connection, blobs, job.created_at)  # nobody holds what was uploaded a second time
        return made
    _ensure_room(connection, job.owner, settings, 1)
    _insert(connection, job, None)
    for blob in blobs:
        blob_table.link(connection, job.id, blob, job.created_at)
    if key is not None:
        row = (job.owner, key, job.request.fingerprint, job.id)
        connection.execute("INSERT INTO keys VALUES (?, ?, ?, ?)", row)
    _note(connection, job.id, "job.queued", settings)
    return job


def add_lines(connection: Connection, jobs: Sequence[tuple[Job, Line, Sequence[Blob]]], settings: JobSettings) -> None:
    """Queues the jobs of a batch. Raises as `add` does."""
    if jobs:
        _ensure_room(connection, jobs[0][0].owner, settings, len(jobs))
    for job, line, blobs in jobs:
        _insert(connection, job, line)
        for blob in blobs:
            blob_table.link(connection, job.id, blob, job.created_at)


def _insert(connection: Connection, job: Job, line: Line | None) -> None:
    connection.execute(
        "INSERT INTO jobs (id, owner, request, status, created_at, batch, line, custom_id) VALUES (?,?,?,?,?,?,?,?)",
        (
            *(job.id, job.owner, job.request.text, "queued", job.created_at),
            *((line.batch, line.number, line.custom_id) if line else (None, None, None)),
        ),
    )


def _ensure_room(connection: Connection, owner: str, settings: JobSettings, more: int) -> None:
    (total,) = connection.execute("SELECT COUNT(*) FROM jobs").fetchone()
    (own,) = connection.execute("SELECT COUNT(*) FROM jobs WHERE owner = ?", (owner,)).fetchone()
    for held, most, whose in (
        (own, settings.max_jobs_per_client, "This client"),
        (total, settings.max_jobs, "The service"),
    ):
        if held + more > most:
            cause = f"{whose} has {held} jobs; the limit is {most}."
            raise fail("overloaded", cause, "Delete some, or wait until they end.", code="too_many_jobs")


def get(connection: Connection, viewer: Viewer, id: str) -> Job:
    """A job. Raises `MotetError` (not_found), also for those of others."""
    job = _found(connection, id)
    if job is None or not viewer.may_see(job.owner):
        raise fail("not_found", f"There is no job {quoted(id)}.", "GET /v1/jobs lists yours.", code="job_not_found")
    return job


def _found(connection: Connection, id: str) -> Job | None:
    row = connection.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
    return _job(row) if row else None


def listed(connection: Connection, owner: str, after: str | None, limit: int, *, newest_first: bool) -> list[Job]:
    """Jobs of an owner that are not lines of a batch, beginning after one of them. Raises `MotetError` (not_found) if that is
    not there."""
    query, first = (NEWEST_FIRST, LATEST) if newest_first else (OLDEST_FIRST, EARLIEST)
    begin = place_of(connection, "jobs", owner, after, first)
    rows = connection.execute(query, (owner, *begin, limit))
    return [_job(row) for row in rows]


def claim(connection: Connection, worker: str, settings: JobSettings, now_s: float) -> Job | None:
    """Begins the next job, if fewer than `running_at_once` run: of the client of whom fewest run, single jobs before lines of
    batches, the oldest first. Jobs that nobody runs any more come before all others."""
    _end_lost(connection, settings, now_s)
    _end_late(connection, settings, now_s)
    lease = _credible_lease(settings, now_s)
    (running,) = connection.execute(
        "SELECT COUNT(*) FROM jobs WHERE status = 'running' AND lease_until > ? AND lease_until <= ?", lease
    ).fetchone()
    if running >= settings.running_at_once:
        return None
    row = (
        connection.execute(
            "SELECT id FROM jobs WHERE status = 'running' AND NOT (lease_until > ? AND lease_until <= ?)"
            " ORDER BY created_at LIMIT 1",
            lease,
        ).fetchone()
        or connection.execute(
            "WITH busy AS (SELECT owner, COUNT(*) AS jobs FROM jobs WHERE status = 'running' GROUP BY owner)"
            " SELECT id FROM jobs LEFT JOIN busy USING (owner) WHERE status = 'queued' AND not_before <= ?"
            " ORDER BY COALESCE(busy.jobs, 0), batch IS NOT NULL, created_at, line LIMIT 1",
            (now_s,),
        ).fetchone()
    )
    if row is None:
        return None
    connection.execute(
        "UPDATE jobs SET status = 'running', started_at = COALESCE(started_at, ?), attempts = attempts + 1,"
        " worker = ?, lease_until = ?, seconds_done = 0, seconds_expected = NULL WHERE id = ?",
        (now_s, worker, now_s + settings.lease_s, row["id"]),
    )
    _note(connection, row["id"], "job.running", settings)
    return _found(connection, row["id"])


def _credible_lease(settings: JobSettings, now_s: float) -> tuple[float, float]:
    """The times between which a lease that holds ends. One that ends later was given before the clock was set back."""
    return now_s, now_s + 2 * settings.lease_s


def _end_lost(connection: Connection, settings: JobSettings, now_s: float) -> None:
    """Jobs that were lost as often as they may be begun have failed."""
    lost = connection.execute(
        "SELECT id FROM jobs WHERE status = 'running' AND NOT (lease_until > ? AND lease_until <= ?) AND attempts >= ?",
        (*_credible_lease(settings, now_s), settings.attempts),
    ).fetchall()
    for row in lost:
        _end(connection, row["id"], JobAnswer(500, error=INTERRUPTED), settings, now_s)


def _end_late(connection: Connection, settings: JobSettings, now_s: float) -> None:
    """Jobs that waited too long have failed."""
    late = connection.execute(
        "SELECT id FROM jobs WHERE status = 'queued' AND created_at <= ? LIMIT 1000", (now_s - settings.max_wait_s,)
    ).fetchall()
    message = f"The job did not end within {settings.max_wait_s:g} s. Make it again when the service has less to do."
    error = {"message": message, "type": "timeout_error", "param": None, "code": "job_expired"}
    for row in late:
        _end(connection, row["id"], JobAnswer(408, error=error), settings, now_s)


def renew(
    connection: Connection, job: Job, worker: str, settings: JobSettings, now_s: float, progress: Progress
) -> bool:
    """Renews the lease, and notes the progress. False if the job was deleted, or another worker has it."""
    done = progress.seconds_done
    changed = connection.execute(
        "UPDATE jobs SET lease_until = ?, seconds_done = ?, seconds_expected = ?, seconds_charged = ?"
        " WHERE id = ? AND worker = ? AND status = 'running'",
        (now_s + settings.lease_s, done, progress.seconds_expected, progress.seconds_charged, job.id, worker),
    ).rowcount
    if changed and done and done != job.seconds_done:
        _note(connection, job.id, "job.progress", settings)
    return bool(changed)


def end(connection: Connection, id: str, worker: str, answer: JobAnswer, settings: JobSettings, now_s: float) -> bool:
    """Ends a job with its answer. False if the job was deleted, or another worker has it; then nothing changes."""
    if not _is_of(connection, id, worker):
        return False
    if answer.body:
        blob_table.link(connection, id, answer.body, now_s)
    _end(connection, id, answer, settings, now_s)
    return True


def again(
    connection: Connection,
    id: str,
    worker: str,
    not_before_s: float,
    settings: JobSettings,
    *,
    counted: bool,
    charged_seconds: float,
) -> bool:
    """Puts a job back into the queue. An attempt that is not `counted` was refused, and not begun. `charged_seconds` of audio
    were taken from the quota of the job's key, which the next attempt does not take again."""
    if not _is_of(connection, id, worker):
        return False
    connection.execute(
        "UPDATE jobs SET status = 'queued', not_before = ?, worker = NULL, lease_until = NULL, attempts = attempts - ?,"
        " seconds_charged = ? WHERE id = ?",
        (not_before_s, 0 if counted else 1, charged_seconds, id),
    )
    _note(connection, id, "job.queued", settings)
    return True


def _is_of(connection: Connection, id: str, worker: str) -> bool:
    row = connection.execute(
        "SELECT 1 FROM jobs WHERE id = ? AND worker = ? AND status = 'running'", (id, worker)
    ).fetchone()
    return row is not None


def _end(connection: Connection, id: str, answer: JobAnswer, settings: JobSettings, now_s: float) -> None:
    status = "completed" if answer.body else "failed"
    connection.execute(
        "UPDATE jobs SET status = ?, answer = ?, finished_at = ?, worker = NULL, lease_until = NULL WHERE id = ?",
        (status, json.dumps(asdict(answer)), now_s, id),
    )
    blob_table.drop_parts(connection, id, now_s)
    _note(connection, id, f"job.{status}", settings)


def delete(connection: Connection, id: str, now_s: float) -> None:
    """Deletes a job with all that it holds. A worker that runs it notices when it renews its lease."""
    connection.execute("DELETE FROM jobs WHERE id = ?", (id,))
    connection.execute("DELETE FROM events WHERE job = ?", (id,))
    blob_table.drop_parts(connection, id, now_s)
    blob_table.unlink(connection, id, now_s)


def delete_old(connection: Connection, settings: JobSettings, now_s: float, most: int = 1000) -> int:
    """Deletes finished jobs that are over their age, and the oldest idempotency keys if there are too many. The lines of a
    batch are deleted when it ends."""
    rows = connection.execute(
        "SELECT id FROM jobs WHERE finished_at <= ? AND batch IS NULL LIMIT ?", (now_s - settings.keep_s, most)
    ).fetchall()
    for row in rows:
        delete(connection, row["id"], now_s)
    connection.execute(
        "DELETE FROM keys WHERE rowid IN (SELECT rowid FROM keys ORDER BY rowid DESC LIMIT -1 OFFSET ?)", (MOST_KEYS,)
    )
    return len(rows)


def events_after(connection: Connection, id: str, number: int) -> list[JobEvent]:
    """The events of a job after that number."""
    rows = connection.execute(
        "SELECT number, type, data FROM events WHERE job = ? AND number > ? ORDER BY number", (id, number)
    )
    return [JobEvent(row["number"], row["type"], json.loads(row["data"])) for row in rows]


def lines_of(connection: Connection, batch: str, after: int, most: int) -> list[tuple[Job, str]]:
    """Jobs of a batch with their `custom_id`, in order, after a line."""
    rows = connection.execute(
        "SELECT * FROM jobs WHERE batch = ? AND line > ? ORDER BY line LIMIT ?", (batch, after, most)
    )
    return [(_job(row), row["custom_id"]) for row in rows]


def _note(connection: Connection, id: str, type: str, settings: JobSettings) -> None:
    """Adds an event, and drops those that it makes old. Lines of batches have none."""
    row = connection.execute(
        "UPDATE jobs SET events = events + 1 WHERE id = ? AND batch IS NULL RETURNING *", (id,)
    ).fetchone()
    if row is not None:
        data = json.dumps(_job(row).as_json(settings.keep_s))
        old = [(id, each) for each in OLD_AFTER.get(type, ())]
        connection.executemany("DELETE FROM events WHERE job = ? AND type = ?", old)
        connection.execute("INSERT INTO events VALUES (?, ?, ?, ?)", (id, row["events"], type, data))


def _job(row: Row) -> Job:
    return Job(
        row["id"],
        row["owner"],
        JobRequest.of(row["request"]),
        row["status"],
        row["created_at"],
        row["started_at"],
        row["finished_at"],
        row["attempts"],
        row["seconds_done"],
        row["seconds_expected"],
        _answer(row["answer"]) if row["answer"] else None,
        row["batch"],
        row["line"],
        row["seconds_charged"],
    )


def _answer(text: str) -> JobAnswer:
    values: dict[str, Any] = json.loads(text)
    body, headers = values.pop("body"), values.pop("headers")
    pairs: Iterator[tuple[str, str]] = ((name, value) for name, value in headers)
    return replace(JobAnswer(**values), headers=tuple(pairs), body=Blob(**body) if body else None)


def _conflict(cause: str, code: str) -> Exception:
    return fail("conflict", cause, "Send another key.", param="Idempotency-Key", code=code)
