"""The database of jobs: one SQLite file. Each call is one transaction, on a thread of its own."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from deployments.errors import fail
from serve_app.gateway.jobs.folder_claim import FolderClaim

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

BUSY_S = 30.0
"""How long a transaction waits for one of another gateway."""

VERSION = 2
SCHEMA = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, request TEXT NOT NULL, status TEXT NOT NULL,
    created_at REAL NOT NULL, started_at REAL, finished_at REAL, attempts INTEGER NOT NULL DEFAULT 0,
    seconds_done REAL NOT NULL DEFAULT 0, seconds_expected REAL, answer TEXT,
    batch TEXT, line INTEGER, custom_id TEXT, events INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0, worker TEXT, lease_until REAL, seconds_charged REAL NOT NULL DEFAULT 0
);
CREATE INDEX jobs_by_status ON jobs (status, owner, created_at);
CREATE INDEX jobs_by_owner ON jobs (owner, created_at, id);
CREATE INDEX jobs_by_batch ON jobs (batch, line) WHERE batch IS NOT NULL;
CREATE TABLE events (
    job TEXT NOT NULL, number INTEGER NOT NULL, type TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (job, number)
) WITHOUT ROWID;
CREATE TABLE keys (
    owner TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL, job TEXT NOT NULL, PRIMARY KEY (owner, key)
);
CREATE TABLE blobs (digest TEXT PRIMARY KEY, path TEXT NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE links (holder TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (holder, digest)) WITHOUT ROWID;
CREATE INDEX links_by_digest ON links (digest);
CREATE TABLE unlinked (path TEXT PRIMARY KEY, bytes INTEGER NOT NULL, remove_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE parts (job TEXT NOT NULL, address TEXT NOT NULL, path TEXT NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY (job, address)) WITHOUT ROWID;
CREATE TABLE files (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, digest TEXT NOT NULL, name TEXT NOT NULL, purpose TEXT NOT NULL,
    created_at REAL NOT NULL, expires_at REAL NOT NULL, media_type TEXT NOT NULL
);
CREATE INDEX files_by_owner ON files (owner, created_at, id);
CREATE INDEX files_by_age ON files (expires_at);
CREATE TABLE batches (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, status TEXT NOT NULL, created_at REAL NOT NULL, data TEXT NOT NULL
);
CREATE INDEX batches_by_owner ON batches (owner, created_at, id);
CREATE INDEX batches_by_status ON batches (status);
"""
FROM_VERSION_1 = "ALTER TABLE jobs ADD COLUMN seconds_charged REAL NOT NULL DEFAULT 0"


class JobDatabase:
    """Opens the file at its first use. From then on the folder belongs to `service`, as long as this process lives."""

    def __init__(self, folder: Path, service: str = "") -> None:
        self._folder = folder
        self._service = service
        self._claim: FolderClaim | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jobs")
        self._connection: sqlite3.Connection | None = None

    async def run(
        self,
        work: Callable[Concatenate[sqlite3.Connection, Arguments], Result],
        *arguments: Arguments.args,
        **named: Arguments.kwargs,
    ) -> Result:
        """What `work` returns: all that it changes, or nothing if it raises. Raises `MotetError` (unavailable) if the file
        cannot be opened or the folder belongs to another service that runs, (storage_full)."""
        done = asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: self.run_here(work, *arguments, **named)
        )
        return await done

    def run_here(
        self,
        work: Callable[Concatenate[sqlite3.Connection, Arguments], Result],
        *arguments: Arguments.args,
        **named: Arguments.kwargs,
    ) -> Result:
        """The same, on this thread: always the same one."""
        try:
            with _transaction(self._opened()) as connection:
                return work(connection, *arguments, **named)
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise  # a mistake of ours
        except (sqlite3.DatabaseError, OSError) as error:
            if "full" in str(error) or "No space" in str(error):
                remedy = "Delete jobs and files that you no longer need."
                raise fail("storage_full", "The disk of jobs is full.", remedy, code="storage_full") from error
            cause = "The queue of jobs cannot be read or written."
            raise fail("unavailable", cause, "Try again later.", code="jobs_unavailable", detail=str(error)) from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._claim = self._claim or FolderClaim(self._folder, self._service)
            connection = sqlite3.connect(self._folder / "jobs.sqlite", BUSY_S, isolation_level=None)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # a job that was accepted survives the loss of power
            with _transaction(connection):
                _create(connection)
            self._connection = connection
        return self._connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        # SQLite ends a transaction by itself after some errors of a full disk, and not after others.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _create(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        for statement in SCHEMA.split(";\n"):
            connection.execute(statement)
    elif version == 1:
        connection.execute(FROM_VERSION_1)
    elif version != VERSION:
        raise OSError(f"jobs.sqlite has the version {version}; this service writes {VERSION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
