"""The bytes of jobs, on disk and in another store of fsspec."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from deployments.errors import MotetError
from serve_app.gateway.jobs import blob_table
from serve_app.gateway.jobs.blobs import Blobs
from serve_app.gateway.jobs.database import JobDatabase
from serve_app.gateway.jobs.folder_claim import LOCK_FILE
from serve_app.gateway.jobs.settings import JobSettings

DATA = bytes(range(256)) * 4000


def blobs_of(folder: Path, store: str | None = None, **settings: int) -> Blobs:
    return Blobs(JobSettings(folder=str(folder), store=store, **settings), JobDatabase(folder), folder, lambda: 0.0)


async def blocks(data: bytes, count: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), count):
        yield data[start : start + count]


def files_in(folder: Path) -> list[Path]:
    """All but the database and the lock of the service that has the folder."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != LOCK_FILE]
    return [file for file in files if "sqlite" not in file.name]


@pytest.mark.parametrize("store", [None, "memory://jobs"])
async def test_a_blob_is_what_was_written(tmp_path: Path, store: str | None) -> None:
    blobs = blobs_of(tmp_path, store)
    blob = await blobs.write(blocks(DATA))
    assert (blob.digest, blob.bytes) == (hashlib.sha256(DATA).hexdigest(), len(DATA))
    await blobs._database.run(blob_table.link, "me", blob, 0.0)
    assert b"".join([block async for block in blobs.blocks(blob.digest)]) == DATA
    assert await blobs.read(blob.digest, len(DATA)) == DATA
    with pytest.raises(MotetError, match="the limit is 10"):
        await blobs.read(blob.digest, 10)
    assert files_in(tmp_path / "incoming") == []
    if store is not None:
        assert fsspec.filesystem("memory").find("/jobs") == [f"/jobs/{blob.path}"]
    await blobs._database.run(blob_table.unlink, "me", 0.0)
    await blobs.remove_unlinked()
    assert files_in(tmp_path) == []
    assert fsspec.filesystem("memory").find("/jobs") == []
    with pytest.raises(MotetError, match="not there any more"):
        await blobs.read(blob.digest, 10)


async def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield DATA
        raise RuntimeError("broken")

    blobs = blobs_of(tmp_path)
    with pytest.raises(RuntimeError):
        await blobs.write(broken())
    assert files_in(tmp_path) == []


async def test_a_blob_that_is_too_large_leaves_nothing(tmp_path: Path) -> None:
    blobs = blobs_of(tmp_path, max_bytes=1000)
    with pytest.raises(MotetError) as full:
        await blobs.write_bytes(DATA)
    assert full.value.failure.code == "jobs_full"
    assert files_in(tmp_path) == []


async def test_what_nobody_holds_after_an_hour_is_removed(tmp_path: Path) -> None:
    blobs = blobs_of(tmp_path)
    await blobs.write_bytes(DATA)
    await blobs.remove_unlinked()
    assert len(files_in(tmp_path)) == 1
    blobs._clock = lambda: blob_table.UNLINKED_AFTER_S
    await blobs.remove_unlinked()
    assert files_in(tmp_path) == []


async def test_a_file_that_cannot_be_removed_does_not_keep_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = blobs_of(tmp_path)
    for number in range(3):
        await blobs.write_bytes(DATA + bytes([number]))
    blobs._clock = lambda: blob_table.UNLINKED_AFTER_S
    held = files_in(tmp_path)[1]
    remove = LocalFileSystem.rm_file

    def guarded(self: LocalFileSystem, path: str) -> None:
        if Path(path).name == held.name:
            raise PermissionError("retention")
        remove(self, path)

    monkeypatch.setattr(LocalFileSystem, "rm_file", guarded)
    await blobs.remove_unlinked()
    assert files_in(tmp_path) == [held]
    monkeypatch.undo()
    blobs._clock = lambda: 2 * blob_table.UNLINKED_AFTER_S
    await blobs.remove_unlinked()
    assert files_in(tmp_path) == []


async def test_a_store_that_does_not_exist_is_a_failure_of_the_jobs_only(tmp_path: Path) -> None:
    with pytest.raises(MotetError) as error:
        await blobs_of(tmp_path, "nowhere://bucket").write_bytes(DATA)
    assert error.value.failure.kind == "unavailable"
