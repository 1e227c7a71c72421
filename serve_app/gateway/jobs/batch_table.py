"""The batches. Everything here is part of a transaction."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from sqlite3 import Connection, Row

from deployments.errors import MotetError, fail, quoted
from serve_app.gateway.jobs import blob_table
from serve_app.gateway.jobs.pages import LATEST, place_of
from serve_app.gateway.jobs.records import Blob, JobBatch, Viewer
from serve_app.gateway.jobs.settings import JobSettings

COUNT_OPEN = """
SELECT COUNT(*) FROM batches
WHERE owner = COALESCE(?, owner) AND status IN ('validating', 'in_progress', 'cancelling')
"""
ENDED_AT = """COALESCE(
    json_extract(data, '$.times.completed_at'), json_extract(data, '$.times.cancelled_at'),
    json_extract(data, '$.times.failed_at'), created_at
)"""
DELETE_WITHOUT_FILES = f"""
DELETE FROM batches WHERE id IN (
    SELECT id FROM (
        SELECT id, ROW_NUMBER() OVER (PARTITION BY owner ORDER BY {ENDED_AT} DESC, id DESC) AS newest
        FROM batches
        WHERE owner = COALESCE(?, owner) AND status IN ('failed', 'cancelled', 'completed') AND NOT EXISTS (
            SELECT 1 FROM files
            WHERE files.id IN (json_extract(data, '$.files.output'), json_extract(data, '$.files.error'))
        )
    )
    ORDER BY newest LIMIT -1 OFFSET ?
)
"""  # noqa: S608  (nothing of a client's is in it)
"""Of all owners, it deletes from those who have the most."""


def add(connection: Connection, batch: JobBatch, blob: Blob, settings: JobSettings) -> None:
    """Adds a batch, which holds its input until it ends. Raises `MotetError` (overloaded) if there are too many."""
    _ensure_room(connection, batch.owner, settings)
    _delete_without_files(connection, batch.owner, settings)
    blob_table.link(connection, batch.id, blob, batch.created_at)
    connection.execute(
        "INSERT INTO batches VALUES (?, ?, ?, ?, '')", (batch.id, batch.owner, batch.status, batch.created_at)
    )
    write(connection, batch)


def _ensure_room(connection: Connection, owner: str, settings: JobSettings) -> None:
    for whose, most, name, remedy in (
        (owner, settings.max_batches_per_client, "This client", "Cancel some, or wait until they end."),
        (None, settings.max_batches, "The service", "Try again later."),
    ):
        (held,) = connection.execute(COUNT_OPEN, (whose,)).fetchone()
        if held >= most:
            cause = f"{name} has {held} batches that have not ended, the limit."
            raise fail("overloaded", cause, remedy, code="too_many_batches")


def _delete_without_files(connection: Connection, owner: str, settings: JobSettings) -> None:
    """Deletes batches of which no file is there if there are too many, those first that ended first: a client may make one
    after another that fails at once, and delete its file of errors."""
    for whose, most in ((owner, settings.max_batches_per_client), (None, settings.max_batches)):
        connection.execute(DELETE_WITHOUT_FILES, (whose, most))


def get(connection: Connection, viewer: Viewer, id: str) -> JobBatch:
    """A batch, with the counts of its jobs. Raises `MotetError` (not_found), also for those of others."""
    row = connection.execute("SELECT * FROM batches WHERE id = ?", (id,)).fetchone()
    if row is None or not viewer.may_see(row["owner"]):
        raise _not_found(id)
    return counted(connection, _batch(row))


def listed(connection: Connection, owner: str, after: str | None, limit: int) -> list[JobBatch]:
    """Batches of an owner, the newest first, beginning after one of them. Raises `MotetError` (not_found) if that is not
    there."""
    begin = place_of(connection, "batches", owner, after, LATEST)
    rows = connection.execute(
        "SELECT * FROM batches WHERE owner = ? AND (created_at, id) < (?, ?) ORDER BY created_at DESC, id DESC LIMIT ?",
        (owner, *begin, limit),
    )
    return [counted(connection, _batch(row)) for row in rows.fetchall()]


def open_ones(connection: Connection) -> list[JobBatch]:
    """Batches for which something is to be done, the oldest first."""
    rows = connection.execute(
        "SELECT * FROM batches WHERE status IN ('validating', 'in_progress', 'cancelling') ORDER BY created_at"
    ).fetchall()
    return [counted(connection, _batch(row)) for row in rows]


def refuse(connection: Connection, batch: JobBatch, now_s: float) -> None:
    """A batch whose input has mistakes has failed."""
    if is_still(connection, batch):
        blob_table.unlink(connection, batch.id, now_s)
        write(connection, replace(batch, status="failed", times={**batch.times, "failed_at": now_s}))


def cancel(connection: Connection, viewer: Viewer, id: str, now_s: float) -> JobBatch:
    """A batch is to be cancelled. The gateways delete its jobs that have not ended; what has ended will be in its files.
    Raises `MotetError` (not_found, conflict if it has ended)."""
    batch = get(connection, viewer, id)
    if not batch.open:
        cause = f"The batch is {batch.status} already."
        raise fail("conflict", cause, "Only one that has not ended can be cancelled.", code="batch_ended")
    if batch.status != "cancelling":
        batch = replace(batch, status="cancelling", times={**batch.times, "cancelling_at": now_s})
        write(connection, batch)
    return batch


def delete_old(connection: Connection, settings: JobSettings, now_s: float) -> None:
    """Deletes batches that ended and whose files are over their age."""
    connection.execute(
        f"DELETE FROM batches WHERE status NOT IN ('validating', 'in_progress', 'cancelling') AND {ENDED_AT} <= ?",  # noqa: S608
        (now_s - settings.keep_files_s,),
    )


def is_still(connection: Connection, batch: JobBatch) -> bool:
    """Whether no other gateway has changed its status since."""
    row = connection.execute("SELECT status FROM batches WHERE id = ?", (batch.id,)).fetchone()
    return row is not None and row["status"] == batch.status


def write(connection: Connection, batch: JobBatch) -> None:
    """Replaces what is known of a batch."""
    connection.execute(
        "UPDATE batches SET status = ?, data = ? WHERE id = ?", (batch.status, json.dumps(asdict(batch)), batch.id)
    )


def counted(connection: Connection, batch: JobBatch) -> JobBatch:
    """A batch with the counts of its jobs that have ended so far."""
    if batch.status not in ("in_progress", "cancelling"):
        return batch
    rows = connection.execute("SELECT status, COUNT(*) FROM jobs WHERE batch = ? GROUP BY status", (batch.id,))
    counts = dict(map(tuple, rows))
    return replace(batch, completed=counts.get("completed", 0), failed=counts.get("failed", 0))


def _not_found(id: str) -> MotetError:
    remedy = "GET /v1/batches lists yours."
    return fail("not_found", f"The batch {quoted(id)} does not exist.", remedy, code="batch_not_found")


def _batch(row: Row) -> JobBatch:
    values = json.loads(row["data"])
    return JobBatch(**{**values, "mistakes": tuple(values["mistakes"])})
