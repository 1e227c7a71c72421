"""The files that clients uploaded, and those that batches made. Everything here is part of a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection, Row

from deployments.errors import fail, quoted
from serve_app.gateway.jobs import blob_table
from serve_app.gateway.jobs.pages import EARLIEST, LATEST, place_of
from serve_app.gateway.jobs.records import Blob, StoredFile, Viewer
from serve_app.gateway.jobs.settings import JobSettings

NEWEST_FIRST = """
SELECT files.*, blobs.path, blobs.bytes FROM files JOIN blobs USING (digest)
WHERE owner = ? AND purpose = COALESCE(?, purpose) AND (created_at, id) < (?, ?)
ORDER BY created_at DESC, id DESC LIMIT ?
"""
FILES_OF_A_BATCH = ("output", "error")
OLDEST_FIRST = NEWEST_FIRST.replace("<", ">").replace(" DESC", "")


def add_upload(connection: Connection, file: StoredFile, settings: JobSettings) -> None:
    """Adds a file of a client. Raises `MotetError` (overloaded) if there are too many."""
    _ensure_room(connection, file.owner, settings)
    add(connection, [file])


def add(connection: Connection, files: Sequence[StoredFile]) -> None:
    """Adds files."""
    for file in files:
        blob_table.link(connection, file.id, file.blob, file.created_at)
        connection.execute(
            "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(file.id, file.owner, file.blob.digest, file.name, file.purpose),
                *(file.created_at, file.expires_at, file.media_type),
            ),
        )


def ensure_room_for_answers(connection: Connection, owner: str, lines: int, settings: JobSettings) -> None:
    """Raises `MotetError` (overloaded) if a client would have too many files if each line of its batches made one, those of
    a new batch with so many lines too, whose output and errors are a file each."""
    (open_lines,) = connection.execute(
        "SELECT COUNT(*) FROM jobs WHERE owner = ? AND batch IS NOT NULL", (owner,)
    ).fetchone()
    held, most = _files_of(connection, owner) + open_lines, settings.max_files_per_client
    if held + lines + len(FILES_OF_A_BATCH) > most:
        cause = f"This client has {held:,} files and lines of batches; with these {lines:,} lines they exceed {most:,}."
        raise fail("overloaded", cause, "Delete files, or make smaller batches.", code="too_many_files")


def _ensure_room(connection: Connection, owner: str, settings: JobSettings) -> None:
    (total,) = connection.execute("SELECT COUNT(*) FROM files").fetchone()
    for held, most, whose, remedy in (
        (_files_of(connection, owner), settings.max_files_per_client, "This client", "Delete some first."),
        (total, settings.max_files, "The service", "Try again later."),
    ):
        if held >= most:
            raise fail("overloaded", f"{whose} has {held} files, the limit.", remedy, code="too_many_files")


def _files_of(connection: Connection, owner: str) -> int:
    (own,) = connection.execute("SELECT COUNT(*) FROM files WHERE owner = ?", (owner,)).fetchone()
    return int(own)


def get(connection: Connection, viewer: Viewer, id: str) -> StoredFile:
    """A file. Raises `MotetError` (not_found), also for those of others."""
    row = connection.execute(
        "SELECT files.*, blobs.path, blobs.bytes FROM files JOIN blobs USING (digest) WHERE id = ?", (id,)
    ).fetchone()
    if row is None or not viewer.may_see(row["owner"]):
        raise fail("not_found", f"There is no file {quoted(id)}.", "GET /v1/files lists yours.", code="file_not_found")
    return _file(row)


def listed(
    connection: Connection, owner: str, purpose: str | None, after: str | None, limit: int, *, newest_first: bool
) -> list[StoredFile]:
    """Files of an owner, beginning after one of them. Raises `MotetError` (not_found) if that is not there."""
    query, first = (NEWEST_FIRST, LATEST) if newest_first else (OLDEST_FIRST, EARLIEST)
    begin = place_of(connection, "files", owner, after, first)
    rows = connection.execute(query, (owner, purpose, *begin, limit))
    return [_file(row) for row in rows]


def delete(connection: Connection, id: str, now_s: float) -> None:
    """Deletes a file. Jobs that were made with it still have its content."""
    connection.execute("DELETE FROM files WHERE id = ?", (id,))
    blob_table.unlink(connection, id, now_s)


def delete_old(connection: Connection, now_s: float, most: int = 1000) -> None:
    """Deletes files that are over their age."""
    for row in connection.execute("SELECT id FROM files WHERE expires_at <= ? LIMIT ?", (now_s, most)).fetchall():
        delete(connection, row["id"], now_s)


def _file(row: Row) -> StoredFile:
    return StoredFile(
        row["id"],
        row["owner"],
        Blob(row["digest"], row["path"], row["bytes"]),
        row["name"],
        row["purpose"],
        row["created_at"],
        row["expires_at"],
        row["media_type"],
    )
