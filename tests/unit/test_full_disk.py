"""A full disk is reported with a remedy, and no partial file stays."""

from __future__ import annotations

import errno
import io
import os
import resource
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import MotetError
from serve_app.gateway.bodies import storage
from serve_app.gateway.bodies.form_parser import FormParser
from serve_app.gateway.bodies.storage import storing
from serve_app.gateway.jobs import blob_table
from serve_app.gateway.jobs.database import JobDatabase
from serve_app.gateway.settings import VoiceSettings
from serve_app.gateway.stem_archive import StemArchive
from serve_app.gateway.voice_store import VoiceStore
from tests.unit.test_api import Bench
from tests.unit.test_voice_store import CONSENT, clip

FORM: dict[str, Any] = {"data": {"name": "Ada", "consent": CONSENT}, "files": {"audio_sample": ("a.wav", clip())}}


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class HalfWritten(io.FileIO):
    """A file on a disk that takes four bytes of it."""

    def write(self, data: Any, /) -> int:
        super().write(data[:4])
        raise OSError(errno.ENOSPC, "No space left on device")


PLACES: dict[str, tuple[Any, str, Callable[..., object]]] = {
    "the folder": (Path, "mkdir", full),
    "a file": (tempfile, "mkstemp", full),
    "its beginning": (os, "fdopen", HalfWritten),
    "its end": (os, "fsync", full),
    "its name": (Path, "replace", full),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_voice_that_the_disk_does_not_take_is_refused_and_leaves_nothing(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = VoiceStore(VoiceSettings(folder=str(tmp_path)))
    kept = store.add("me", clip(pitch=330.0), "Bo", CONSENT, None)
    monkeypatch.setattr(*PLACES[place])
    with pytest.raises(MotetError) as told:
        store.add("me", clip(), "Ada", CONSENT, None)
    assert (told.value.failure.kind, told.value.failure.code) == ("storage_full", "storage_full")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{kept.id}.npz"]
    assert store.listed("me") == [kept]
    assert store.add("me", clip(), "Ada", CONSENT, None).name == "Ada"


async def test_the_client_gets_a_507_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(voices={"folder": str(tmp_path)})
    monkeypatch.setattr(tempfile, "mkstemp", full)
    answer = await bench.client.post("/v1/audio/voices", **FORM)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (507, "server_error", "storage_full")
    assert "Delete voices" in error["message"]
    monkeypatch.undo()
    assert (await bench.client.post("/v1/audio/voices", **FORM)).status_code == 200


class FullFile:
    """What stands for a temporary file on a full disk."""

    def __init__(self, _: int) -> None:
        self.closed = False

    def seek(self, offset: int) -> None:
        pass

    def write(self, data: bytes) -> None:
        full()

    def close(self) -> None:
        self.closed = True
        full()  # what was not written is tried again


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/separations", "/v1/audio/voices"])
async def test_an_upload_that_the_disk_does_not_take_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[FullFile] = []

    def opened(size: int) -> FullFile:
        files.append(FullFile(size))
        return files[-1]

    monkeypatch.setattr(storage, "SpooledTemporaryFile", opened)
    answer = await Bench().client.post(path, data={"model": "ear"}, files={"file": bytes(2**20)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage_full")
    assert [file.closed for file in files] == [True]


def test_a_stem_that_the_disk_does_not_take_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = StemArchive({"speech": "speech.wav", "noise": "noise.wav"})
    monkeypatch.setitem(archive._waiting, "noise", FullFile(0))
    with pytest.raises(MotetError, match="disk for stems is full"):
        archive.add("noise", b"x")


@pytest.mark.parametrize(
    ("number", "told"), [(errno.ENOSPC, MotetError), (errno.EDQUOT, MotetError), (errno.EIO, OSError)]
)
def test_other_failures_of_a_disk_are_no_lack_of_room(number: int, told: type[Exception]) -> None:
    with pytest.raises(told), storing("voices"):
        raise OSError(number, "")


def test_what_a_form_keeps_on_disk_goes_when_it_is_closed() -> None:
    parser = FormParser("multipart/form-data; boundary=b")
    head = b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
    parser.feed(head + bytes(storage.IN_MEMORY_BYTES + 1) + b"\r\n--b--\r\n")
    assert parser.on_disk
    (_, file) = parser.files[0]
    parser.close()
    parser.close()
    assert file.closed


@contextmanager
def no_more_bytes() -> Iterator[None]:
    """While this lasts, this process can write to no file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_queue_of_jobs_works_again_after_the_disk_was_full(tmp_path: Path) -> None:
    database = JobDatabase(tmp_path)

    def keep(connection: sqlite3.Connection, digest: str) -> None:
        blob_table.expect(connection, f"aa/{digest}", 10, 10**9, 0.0)

    database.run_here(keep, "before")
    for attempt in range(3):
        with no_more_bytes(), pytest.raises(MotetError) as told:
            database.run_here(keep, f"meanwhile-{attempt}")
        assert told.value.failure.kind in ("unavailable", "storage_full")
        assert "transaction" not in str(told.value.failure.detail)
    database.run_here(keep, "after")
