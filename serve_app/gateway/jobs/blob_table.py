"""Which bytes are in the store, and who holds them. Bytes that nobody holds are listed for removal.

Everything here is part of a transaction: see `JobDatabase`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from sqlite3 import Connection

from deployments.errors import MotetError, fail
from serve_app.gateway.jobs.records import Blob

UNLINKED_AFTER_S = 3600.0
"""A file of the store that nobody holds by then is of an upload that was interrupted."""


REMOVAL_BEGAN = -1.0
"""The time of a path in the list whose file may be removed already: it can no longer be linked to a job or file."""


@dataclass(frozen=True, slots=True)
class Part:
    """Where a finished part of a job is, and how many bytes it has."""

    path: str
    bytes: int


def expect(connection: Connection, path: str, size: int, most_bytes: int, now_s: float) -> None:
    """Notes a path before its file is written, so that an interruption leaves nothing behind. Raises `MotetError`
    (storage_full) if `size` bytes more are too many."""
    if total_bytes(connection) + size > most_bytes:
        raise too_full(most_bytes)
    _remove_at(connection, path, size, now_s + UNLINKED_AFTER_S)


def total_bytes(connection: Connection) -> int:
    """Bytes of all files in the store."""
    (held,) = connection.execute(
        "SELECT SUM(bytes) FROM"
        " (SELECT 0 AS bytes UNION ALL SELECT bytes FROM blobs UNION ALL SELECT bytes FROM parts"
        " UNION ALL SELECT bytes FROM unlinked)"
    ).fetchone()
    return int(held)


def link(connection: Connection, holder: str, blob: Blob, now_s: float) -> None:
    """The holder has the blob. Of equal contents the file that was there first stays. Raises `MotetError` (not_found) if the
    file was removed meanwhile."""
    row = connection.execute("SELECT path FROM blobs WHERE digest = ?", (blob.digest,)).fetchone()
    if row is None:
        if not _delete_unlinked(connection, blob.path):
            raise content_not_found()
        connection.execute("INSERT INTO blobs VALUES (?, ?, ?)", (blob.digest, blob.path, blob.bytes))
    elif row["path"] != blob.path:
        _remove_at(connection, blob.path, blob.bytes, now_s)
    connection.execute("INSERT OR IGNORE INTO links VALUES (?, ?)", (holder, blob.digest))


def renew(connection: Connection, blobs: Sequence[Blob], now_s: float) -> None:
    """Written files that no job and no file has yet stay as long as new ones. Raises `MotetError` (unavailable) if one was
    removed."""
    for blob in blobs:
        changed = connection.execute(
            "UPDATE unlinked SET remove_at = ? WHERE path = ? AND remove_at != ?",
            (now_s + UNLINKED_AFTER_S, blob.path, REMOVAL_BEGAN),
        ).rowcount
        if not changed:
            cause = "The uploaded data was deleted because the request took over an hour."
            raise fail("unavailable", cause, "Send the request again.", code="content_gone")


def release(connection: Connection, blobs: Sequence[Blob], now_s: float) -> None:
    """Files that were written are removed soon, unless somebody holds them."""
    connection.executemany(
        "UPDATE unlinked SET remove_at = ? WHERE path = ? AND remove_at != ?",
        [(now_s, blob.path, REMOVAL_BEGAN) for blob in blobs],
    )


def unlink(connection: Connection, holder: str, now_s: float) -> None:
    """The holder has no blob any more. Those that nobody else holds will be removed."""
    digests = [row["digest"] for row in connection.execute("SELECT digest FROM links WHERE holder = ?", (holder,))]
    connection.execute("DELETE FROM links WHERE holder = ?", (holder,))
    for digest in digests:
        if connection.execute("SELECT 1 FROM links WHERE digest = ?", (digest,)).fetchone():
            continue
        blob = blob_of(connection, digest)
        _remove_at(connection, blob.path, blob.bytes, now_s)
        connection.execute("DELETE FROM blobs WHERE digest = ?", (digest,))


def blob_of(connection: Connection, digest: str) -> Blob:
    """A blob that somebody holds. Raises `MotetError` (not_found)."""
    row = connection.execute("SELECT path, bytes FROM blobs WHERE digest = ?", (digest,)).fetchone()
    if row is None:
        raise content_not_found()
    return Blob(digest, row["path"], row["bytes"])


def removable(connection: Connection, now_s: float, most: int) -> list[str]:
    """Paths whose files are to be removed now. Nobody can hold them any more."""
    rows = connection.execute("SELECT path FROM unlinked WHERE remove_at <= ? LIMIT ?", (now_s, most)).fetchall()
    paths = [row["path"] for row in rows]
    connection.executemany(
        "UPDATE unlinked SET remove_at = ? WHERE path = ?", [(REMOVAL_BEGAN, path) for path in paths]
    )
    return paths


def removed(connection: Connection, paths: Sequence[str], kept: Sequence[str], again_s: float) -> None:
    """The files of `paths` are removed, except those that are `kept` because they could not be: for them it is tried again
    at `again_s`. What was written anew meanwhile stays."""
    connection.executemany("UPDATE unlinked SET remove_at = ? WHERE path = ?", [(again_s, path) for path in kept])
    connection.executemany(
        "DELETE FROM unlinked WHERE path = ? AND remove_at = ?", [(path, REMOVAL_BEGAN) for path in paths]
    )


def keep_part(connection: Connection, job: str, address: str, path: str, size: int, now_s: float) -> str | None:
    """A finished part of a job is in the store. Returns where it is: of equal parts the one that was there first stays. None
    if the job was deleted or has ended, which its worker has not noticed yet; then the part is removed. None, too, if it was
    removed meanwhile."""
    open = connection.execute("SELECT 1 FROM jobs WHERE id = ? AND finished_at IS NULL", (job,)).fetchone()
    there = connection.execute("SELECT path FROM parts WHERE job = ? AND address = ?", (job, address)).fetchone()
    if open is None or there is not None or not _delete_unlinked(connection, path):
        _remove_at(connection, path, size, now_s)
        return there["path"] if open and there else None
    connection.execute("INSERT INTO parts VALUES (?, ?, ?, ?)", (job, address, path, size))
    return path


def parts_of(connection: Connection, job: str) -> dict[str, Part]:
    """A job's finished parts by address."""
    rows = connection.execute("SELECT address, path, bytes FROM parts WHERE job = ?", (job,))
    return {row["address"]: Part(row["path"], row["bytes"]) for row in rows}


def drop_parts(connection: Connection, job: str, now_s: float, addresses: Sequence[str] | None = None) -> None:
    """These parts of a job are not needed any more, or lost; None for all of them."""
    if addresses is None:
        addresses = list(parts_of(connection, job))
    for address in addresses:
        place = (job, address)
        connection.execute(
            "INSERT OR REPLACE INTO unlinked SELECT path, bytes, ? FROM parts WHERE job = ? AND address = ?",
            (now_s, *place),
        )
        connection.execute("DELETE FROM parts WHERE job = ? AND address = ?", place)


def _delete_unlinked(connection: Connection, path: str) -> bool:
    """Deletes a path from the list of those to be removed. False if its file is being removed, or is removed."""
    return bool(
        connection.execute("DELETE FROM unlinked WHERE path = ? AND remove_at != ?", (path, REMOVAL_BEGAN)).rowcount
    )


def _remove_at(connection: Connection, path: str, size: int, at_s: float) -> None:
    connection.execute("INSERT OR REPLACE INTO unlinked VALUES (?, ?, ?)", (path, size, at_s))


def content_not_found() -> MotetError:
    """The error for bytes that are not in the store any more."""
    return fail("not_found", "The content is not there any more.", "Make the job again.", code="content_gone")


def too_full(most_bytes: int) -> MotetError:
    """The error for bytes that do not fit into the store."""
    cause = f"Jobs and files would have over {most_bytes:,} bytes, the limit of this service."
    remedy = "Delete jobs and files that you no longer need."
    return fail("storage_full", cause, remedy, code="jobs_full")
