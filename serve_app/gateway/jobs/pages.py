"""Where a page of a client's jobs, files or batches begins."""

from __future__ import annotations

from sqlite3 import Connection
from typing import Literal

from deployments.errors import fail, quoted

Listed = Literal["jobs", "files", "batches"]
Place = tuple[float, str]
"""A time and an id, by which lists are in order."""

LATEST: Place = (1e18, "")
EARLIEST: Place = (-1e18, "")
"""Places after and before all others, where a list begins."""
ONE_OF: dict[Listed, str] = {"jobs": "job", "files": "file", "batches": "batch"}


def place_of(connection: Connection, table: Listed, owner: str, after: str | None, first: Place) -> Place:
    """The place of the client's own `after`, or `first` without one. Raises `MotetError` (not_found) if it is not there."""
    if after is None:
        return first
    found = connection.execute(
        f"SELECT created_at, id FROM {table} WHERE id = ? AND owner = ?",  # noqa: S608  (a constant)
        (after, owner),
    ).fetchone()
    if found is None:
        kind = ONE_OF[table]
        message = f"The {kind} {quoted(after)} does not exist."
        raise fail("not_found", message, f"GET /v1/{table} lists yours.", param="after", code=f"{kind}_not_found")
    return found["created_at"], found["id"]
