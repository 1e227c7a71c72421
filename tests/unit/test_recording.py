"""Recordings at audio helpers: each may have a share of what is in flight, and helpers take turns."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from ray.exceptions import RayActorError

from deployments.audio.file_source import ByteSource
from deployments.errors import Failure, MotetError, fail
from deployments.replica.chunker import READ_AHEAD_BLOCKS, Chunker, Cut
from deployments.settings import RecordingSettings
from serve_app.gateway.deployment import directory_of
from serve_app.gateway.jobs.context import JOB
from serve_app.gateway.recording import Recordings
from serve_app.gateway.routing.admission import Admission
from serve_app.gateway.settings import AdmissionSettings
from tests.unit.test_separation_graph import CONFIG, Echo, Remote


@dataclass(frozen=True)
class LineTicket:
    """A line's number."""

    index: int


@dataclass(frozen=True)
class LinesTask:
    """Cuts a text into lines. Empty ones are for no engine."""

    def cut(self, file: ByteSource, settings: Any, *_: Any) -> Iterator[tuple[LineTicket, bytes | None]]:
        text = b""
        while block := file.read(3):
            text += block
        for index, line in enumerate(text.split(b"\n")):
            yield LineTicket(index), line or None

    def held_bytes(self, *_: Any) -> int:
        return 0


async def text(*blocks: bytes) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block


class Bench:
    """Some helpers, and a model on two placements."""

    def __init__(self, *helpers: Any, settings: RecordingSettings | None = None) -> None:
        self.recordings = Recordings([cast("Any", Remote(each)) for each in helpers], settings or RecordingSettings())
        handles = {"cuda": Remote(Echo()), "cpu": Remote(Echo())}
        self.directory = directory_of(CONFIG, {"echo": cast("Any", handles)})
        self.admission = Admission(AdmissionSettings(), clock=lambda: 0.0)

    def session(self, upload: AsyncIterator[bytes]) -> Any:
        ticket = self.admission.admit(["echo@cpu"], None, 1.0)
        return self.recordings.session(upload, LinesTask(), None, self.directory, ticket, "echo")


async def tickets(session: Any) -> list[Cut]:
    found = []
    while (cut := await session.take()) is not None:
        found.append(cut)
    return found


async def test_a_ticket_says_whether_an_engine_is_needed() -> None:
    helper = Chunker(RecordingSettings())
    async with Bench(helper).session(text(b"a", b"b\n\nc")) as session:
        found = await tickets(session)
    assert [(cut.ticket.index, cut.for_engine) for cut in found] == [(0, True), (1, False), (2, True)]


async def test_what_is_in_flight_is_shared_equally_by_recordings_that_have_some() -> None:
    bench = Bench(Chunker(RecordingSettings()), settings=RecordingSettings(max_in_flight=12))
    uploads = [bench.session(text(b"a")) for _ in range(3)]
    async with uploads[0] as first, uploads[1] as second, uploads[2] as waiting:
        first.send(LineTicket(0), "separate")
        assert bench.recordings.width(20) == 12
        assert bench.recordings.width(5) == 5
        item = second.send(LineTicket(0), "separate")
        assert bench.recordings.width(20) == 6
        item.cancel()
        assert bench.recordings.width(20) == 12
        assert not waiting.busy


async def test_a_job_has_one_part_under_way_beside_a_recording_of_a_request() -> None:
    bench = Bench(Chunker(RecordingSettings()), settings=RecordingSettings(max_in_flight=12))
    async with bench.session(text(b"a")) as request:
        token = JOB.set(cast("Any", object()))
        try:
            async with bench.session(text(b"a")) as job:
                assert (request.of_job, job.of_job) == (False, True)
                assert bench.recordings.width(20) == 12
                item = request.send(LineTicket(0), "separate")
                assert bench.recordings.width(20) == 1
                item.cancel()
                assert bench.recordings.width(20) == 12
        finally:
            JOB.reset(token)


async def test_a_full_helper_leaves_a_recording_to_the_next() -> None:
    settings = RecordingSettings(max_sessions=1)
    helpers = [Chunker(settings), Chunker(settings)]
    bench = Bench(*helpers, settings=settings)
    async with bench.session(text(b"a")), bench.session(text(b"b")):
        assert [await helper.sessions() for helper in helpers] == [1, 1]
        with pytest.raises(MotetError) as refused:
            async with bench.session(text(b"c")):
                pass
    failure = refused.value.failure
    assert (failure.kind, failure.code) == ("overloaded", "too_many_recordings")
    assert failure.retry_after_s is not None
    assert all(report.open == 0 for report in bench.admission.snapshot().values())


class LostHelper(Chunker):
    """A helper that is gone."""

    def __init__(self) -> None:
        super().__init__(RecordingSettings())

    async def open(self, name: str, task: Any, cut_settings: Any) -> Failure | None:
        raise RayActorError


async def test_a_lost_helper_leaves_a_recording_to_the_next() -> None:
    bench = Bench(LostHelper(), Chunker(RecordingSettings()))
    for _ in range(2):
        async with bench.session(text(b"a")) as session:
            assert len(await tickets(session)) == 1
    with pytest.raises(MotetError) as ended:
        async with Bench(LostHelper(), LostHelper()).session(text(b"a")):
            pass
    assert ended.value.failure.kind == "unavailable"


async def test_an_error_of_the_upload_is_what_the_client_reads() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"a\n"
        raise fail("timeout", "The body stopped.")

    helper = Chunker(RecordingSettings())
    with pytest.raises(MotetError, match="The body stopped"):
        async with Bench(helper).session(broken()) as session:
            await tickets(session)


class LateAnswers(Chunker):
    """A helper that does at once what `late` names, and answers when `answer` is set."""

    def __init__(self, late: str) -> None:
        super().__init__(RecordingSettings())
        self.late, self.done, self.answer = late, asyncio.Event(), asyncio.Event()

    async def open(self, name: str, task: Any, cut_settings: Any) -> Failure | None:
        refusal = await super().open(name, task, cut_settings)
        await self._wait("open")
        return refusal

    async def close(self, name: str) -> None:
        await super().close(name)
        await self._wait("close")

    async def _wait(self, name: str) -> None:
        if name == self.late:
            self.done.set()
            await self.answer.wait()


async def test_an_error_of_the_upload_is_known_before_the_helper_answers() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"a\n"
        raise fail("timeout", "The body stopped.")

    helper = LateAnswers("close")
    with pytest.raises(MotetError, match="The body stopped"):
        async with Bench(helper).session(broken()) as session:
            await tickets(session)
    helper.answer.set()


async def test_a_session_that_opens_after_its_client_left_is_closed() -> None:
    async def use() -> None:
        async with Bench(helper).session(text(b"a")):
            pass

    helper = LateAnswers("open")
    using = asyncio.create_task(use())
    await helper.done.wait()
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    helper.answer.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert await helper.sessions() == 0


async def test_what_comes_after_the_sound_of_a_recording_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decoder ends while the upload goes on, as with foreign bytes after the sound."""

    def cut(self: LinesTask, file: ByteSource, settings: Any, *_: Any) -> Iterator[tuple[LineTicket, bytes]]:
        yield LineTicket(0), file.read(1)

    monkeypatch.setattr(LinesTask, "cut", cut)
    settings = RecordingSettings()
    more = bytes(settings.block_bytes)
    upload = text(*[more] * (3 * READ_AHEAD_BLOCKS))
    async with asyncio.timeout(10), Bench(Chunker(settings), settings=settings).session(upload) as session:
        assert len(await tickets(session)) == 1


async def test_an_upload_does_not_wait_for_a_decoder_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(self: LinesTask, file: ByteSource, settings: Any, *_: Any) -> Iterator[tuple[LineTicket, bytes]]:
        if file.read(1):
            raise fail("invalid", "The file is damaged.")
        yield LineTicket(0), b""

    monkeypatch.setattr(LinesTask, "cut", cut)
    helper = Chunker(RecordingSettings())
    assert await helper.open("damaged", LinesTask(), None) is None
    cutting = asyncio.create_task(helper.next("damaged"))
    async with asyncio.timeout(10):
        for _ in range(3 * READ_AHEAD_BLOCKS):
            assert await helper.feed("damaged", bytes(RecordingSettings().block_bytes), False) is None
        failure = await cutting
    assert isinstance(failure, Failure) and failure.kind == "invalid"


async def test_uploads_that_wait_hold_up_no_other_recording() -> None:
    """With one decoder, while another recording waits for its bytes in a decoder's thread."""
    helper = Chunker(RecordingSettings(decoders=1))
    assert await helper.open("slow", LinesTask(), None) is None
    waiting = asyncio.create_task(helper.next("slow"))
    await helper.feed("slow", b"a\n", False)
    assert await helper.open("quick", LinesTask(), None) is None
    await helper.feed("quick", b"b", True)
    cut = await asyncio.wait_for(helper.next("quick"), 10)
    assert isinstance(cut, Cut) and not waiting.done()
    await helper.feed("slow", b"", True)
    assert isinstance(await waiting, Cut)


async def test_no_more_recordings_are_decoded_at_once_than_there_are_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, lock = 0, 0, threading.Lock()
    go_on = threading.Event()

    def cut(self: LinesTask, file: ByteSource, settings: Any, *_: Any) -> Iterator[tuple[LineTicket, bytes]]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == 2:
                go_on.set()
        go_on.wait(10)
        with lock:
            running -= 1
        yield LineTicket(0), b"x"

    monkeypatch.setattr(LinesTask, "cut", cut)
    helper = Chunker(RecordingSettings(decoders=2))
    names = [str(number) for number in range(8)]
    for name in names:
        assert await helper.open(name, LinesTask(), None) is None
    cuts = await asyncio.gather(*(helper.next(name) for name in names))
    assert all(isinstance(each, Cut) for each in cuts)
    assert most == 2
