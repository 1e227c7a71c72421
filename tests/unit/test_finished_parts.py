"""Finished parts of a job: one that is taken up again gives the same result, and does not make them again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deployments.engines.protocols import (
    AudioChunk,
    Chunk,
    Segment,
    SpeechRequest,
    SpokenWord,
    Stems,
    Token,
    Transcript,
    Word,
)
from deployments.errors import Failure, MotetError
from deployments.tasks.separation import Merged
from serve_app.gateway import kept_transcripts
from serve_app.gateway.jobs import blob_table, context, job_table
from serve_app.gateway.jobs.blobs import Blobs
from serve_app.gateway.jobs.context import JOB, RunningJob, address_of
from serve_app.gateway.jobs.database import JobDatabase
from serve_app.gateway.jobs.finished_parts import FinishedParts
from serve_app.gateway.jobs.records import Job, JobRequest
from serve_app.gateway.jobs.settings import JobSettings
from serve_app.gateway.speech.finished_pieces import FinishedPieces
from tests.unit import test_separation_graph, test_transcription_graph
from tests.unit.test_decode import make
from tests.unit.test_separation_graph import RATE, Echo
from tests.unit.test_transcription_graph import Listener

TEXT = b"one\ntwo\n\nthree\nfour\n"


class Parts:
    """Parts in memory."""

    advanced = False

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.lost = False

    def has(self, address: str) -> bool:
        return address in self.kept

    async def get(self, address: str) -> bytes | None:
        return None if self.lost else self.kept.get(address)

    async def keep(self, address: str, data: bytes) -> None:
        self.kept[address] = data

    def forget_after(self, count: int) -> None:
        """As if the gateway had been killed when `count` parts were there."""
        self.kept = dict(list(self.kept.items())[:count])


@pytest.fixture
def parts() -> Iterator[Parts]:
    """The parts of the job that the test runs."""
    found = Parts()
    token = JOB.set(RunningJob(found))
    yield found
    JOB.reset(token)


class LateListener(Listener):
    """A recognizer that is told that its windows are of a job."""

    async def transcribe(self, window: object, index: int, late_s: float = 0.0) -> Transcript | Failure:
        assert late_s > 0
        return await super().transcribe(window, index)  # type: ignore[arg-type]


class LateEcho(Echo):
    """A separator that is told that its chunks are of a job."""

    async def separate(self, chunk: Chunk, index: int, late_s: float = 0.0) -> Stems | Failure:
        assert late_s > 0
        return await super().separate(chunk, index)


async def transcribed(listener: Listener) -> str:
    return await test_transcription_graph.Bench(listener, listener).text(TEXT)


async def separated(echo: Echo, recording: bytes) -> list[Merged]:
    return await test_separation_graph.Bench(echo, echo).separate(recording)


async def test_windows_that_were_transcribed_are_not_transcribed_again(parts: Parts) -> None:
    whole = await transcribed(LateListener())
    for kept in (4, 2, 0):
        parts.forget_after(kept)
        listener = LateListener()
        assert await transcribed(listener) == whole
        assert len(listener.heard) == 4 - kept


@pytest.mark.parametrize("seconds", [0.5, 1.0, 4.3])
async def test_chunks_that_were_joined_are_not_separated_again(parts: Parts, seconds: float) -> None:
    recording, first = make("wavfloat", rate=RATE, channels=2, seconds=seconds), LateEcho()
    whole = await separated(first, recording)
    chunks = len(whole)
    for kept in (chunks, chunks // 2, 0):
        parts.forget_after(kept)
        echo = LateEcho()
        again = await separated(echo, recording)
        assert [merged.sample_rate for merged in again] == [merged.sample_rate for merged in whole]
        for merged, before in zip(again, whole, strict=True):
            np.testing.assert_array_equal(merged.stems["audio"], before.stems["audio"])
        # The chunk before the first missing part is joined with the next one, so it is needed once more.
        assert len(echo.chunks) == (0 if kept == chunks else chunks - max(0, kept - 1))


async def test_a_recording_that_is_no_job_keeps_nothing() -> None:
    assert await transcribed(Listener()) == "one two three four"


def test_a_transcript_comes_back_as_it_was() -> None:
    words = (Word(" hé", 0.0, 0.5, 0.9, (1, 2)),)
    segment = Segment(" hé", 0.0, 0.5, -0.1, 0.2, (1, 2), words, "A", "fr")
    transcript = Transcript((segment,), "fr", 0.8, (Token("h", -0.5, b"h"), Token("", -1.5, b"\xc3")))
    assert kept_transcripts.from_json(kept_transcripts.to_json(transcript)) == transcript


async def test_a_piece_comes_back_with_its_words() -> None:
    samples = (np.arange(-100, 100) / 32768).astype(np.float32)
    chunks = [
        AudioChunk(samples, 24_000, 3, "Hé.", last=False, piece_over=False),
        AudioChunk(samples[:0], 24_000, 3, "", last=True, words=(SpokenWord("Hé.", 0.0, 0.1),), finish_reason="length"),
    ]
    request = SpeechRequest(("Hé.", "You."), "bo", first_index=3)
    made: list[float] = []
    pieces = FinishedPieces(Parts(), "tone", "weights", made.append)
    await pieces.keep(request, 3, chunks)
    assert await pieces.get(request, 4, 2.0) is None
    kept = await pieces.get(request, 3, 2.0)
    assert kept is not None
    assert made == [pytest.approx(200 / 24_000 / 2)]
    for chunk, before in zip(kept, chunks, strict=True):
        np.testing.assert_array_equal(chunk.samples, before.samples)
        assert (chunk.text, chunk.last, chunk.words) == (before.text, before.last, before.words)
        assert (chunk.piece_over, chunk.finish_reason) == (before.piece_over, before.finish_reason)


def test_the_address_has_everything_that_decides_a_part() -> None:
    assert address_of("a", 1) == address_of("a", 1)
    assert len({address_of("a", 1), address_of("a", "1"), address_of("a1"), address_of("a", 1, None)}) == 4


def test_another_version_of_motet_makes_parts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may cut a recording elsewhere: words would be missing, or there twice."""
    before = address_of("window", 7)
    monkeypatch.setattr(context, "_version", lambda: "another")
    assert address_of("window", 7) != before


def parts_on_disk(folder: Path, **settings: int) -> tuple[FinishedParts, JobDatabase]:
    given, database = JobSettings(**settings), JobDatabase(folder)
    request = JobRequest("/v1/audio/transcriptions", (), ())
    job = Job("job_1", "me", request, "queued", 0.0)
    if database._thread.submit(database.run_here, job_table.listed, "me", None, 1, newest_first=True).result() == []:
        database._thread.submit(database.run_here, job_table.add_once, job, given, [], None).result()
    return FinishedParts("job_1", Blobs(given, database, folder), database, given), database


async def test_parts_outlive_their_process(tmp_path: Path) -> None:
    before, _ = parts_on_disk(tmp_path)
    await before.keep("one", b"1")
    after, _ = parts_on_disk(tmp_path)
    assert not after.has("one")
    await after.load()
    assert (after.has("one"), await after.get("one"), await after.get("two")) == (True, b"1", None)


async def test_a_part_for_which_there_is_no_room_is_not_kept(tmp_path: Path) -> None:
    parts, _ = parts_on_disk(tmp_path, max_bytes=3)
    await parts.keep("one", b"12")
    await parts.keep("two", b"34")
    assert (parts.has("one"), parts.has("two")) == (True, False)


async def test_a_part_that_is_lost_is_made_again(tmp_path: Path) -> None:
    parts, database = parts_on_disk(tmp_path)
    await parts.keep("one", b"1")
    for file in (tmp_path / "files").rglob("one.*"):
        await asyncio.to_thread(file.unlink)
    assert await parts.get("one") is None
    assert await database.run(blob_table.parts_of, "job_1") == {}


async def test_a_job_whose_part_is_lost_begins_again(parts: Parts) -> None:
    await transcribed(LateListener())

    parts.lost = True
    with pytest.raises(MotetError) as error:
        await transcribed(LateListener())
    assert error.value.failure.code == "part_lost"
