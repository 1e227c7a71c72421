"""The jobs of a batch, and its end. Everything here is part of a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from sqlite3 import Connection

from serve_app.gateway.jobs import batch_table, blob_table, file_table, job_table
from serve_app.gateway.jobs.job_table import Line
from serve_app.gateway.jobs.records import Blob, Job, JobBatch, StoredFile
from serve_app.gateway.jobs.settings import JobSettings

QueuedLine = tuple[Job, Line, Sequence[Blob]]


def begin(
    connection: Connection, batch: JobBatch, jobs: Sequence[QueuedLine], settings: JobSettings, now_s: float
) -> bool:
    """Queues the jobs of a batch whose input was read. False if another gateway did, or the batch was cancelled. Raises
    `MotetError` (overloaded) if they are too many, or their answers would be too many files."""
    if not batch_table.is_still(connection, batch):
        return False
    file_table.ensure_room_for_answers(connection, batch.owner, len(jobs), settings)
    job_table.add_lines(connection, jobs, settings)
    times = {**batch.times, "in_progress_at": now_s}
    batch_table.write(connection, replace(batch, status="in_progress", total=len(jobs), times=times))
    return True


def delete_open(connection: Connection, batch: JobBatch, now_s: float) -> JobBatch:
    """Deletes the jobs that have not ended. Returns the batch with the counts of those that have."""
    rows = connection.execute("SELECT id FROM jobs WHERE batch = ? AND finished_at IS NULL", (batch.id,)).fetchall()
    for row in rows:
        job_table.delete(connection, row["id"], now_s)
    return batch_table.counted(connection, batch)


def end(connection: Connection, before: JobBatch, ended: JobBatch, files: Sequence[StoredFile], now_s: float) -> bool:
    """Ends a batch with its files and deletes its jobs. False if another gateway has done it."""
    if not batch_table.is_still(connection, before):
        return False
    file_table.add(connection, files)
    for row in connection.execute("SELECT id FROM jobs WHERE batch = ?", (before.id,)).fetchall():
        job_table.delete(connection, row["id"], now_s)
    blob_table.unlink(connection, before.id, now_s)
    batch_table.write(connection, ended)
    return True
