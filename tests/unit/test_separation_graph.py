"""The separation graph over stand-ins for Ray: no chunk is lost, work is spread, and errors are reported."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, cast

import numpy as np
import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from cluster.models import Model, Placement
from deployments.audio.decode import decode_all
from deployments.engines.protocols import Chunk, Stems
from deployments.errors import Failure, Kind, MotetError
from deployments.replica.chunker import Chunker, Cut
from deployments.replica.merger import Merger
from deployments.settings import RecordingSettings, SeparationSettings
from deployments.tasks.separation import Merged, SeparationTask
from serve_app.config import AppConfig
from serve_app.gateway.deployment import directory_of
from serve_app.gateway.jobs.context import JOB, RunningJob
from serve_app.gateway.recording import Recordings
from serve_app.gateway.routing.admission import Admission, Ticket
from serve_app.gateway.routing.placement import PlacedModel
from serve_app.gateway.separation import SeparationGraph
from serve_app.gateway.settings import AdmissionSettings
from tests.unit.fakes import FakeHandle
from tests.unit.test_decode import make

RATE = 16_000
TASK = SeparationTask((RATE,), chunk_seconds=1.0, overlap_seconds=0.2)
BUSY = Failure("overloaded", "The model's memory is full.", "Try again.", code="memory_full", retry_after_s=7.0)
CONFIG = AppConfig(
    models={
        "echo": Model(
            engine="identity",
            placements=(
                Placement.model_validate({"hardware": {"kind": "cuda"}}),
                Placement.model_validate({"hardware": {"kind": "cpu"}}),
            ),
        )
    }
)


class Remote(FakeHandle):
    """A handle whose answers are passed on as Ray Serve passes references: a call waits for its arguments."""

    def __getattr__(self, name: str) -> Any:
        handle = self

        class Method:
            def remote(self, *arguments: Any) -> asyncio.Task[Any]:
                return asyncio.ensure_future(handle.answer(name, arguments))

        return Method()

    async def answer(self, name: str, arguments: tuple[Any, ...]) -> Any:
        values = [await each if isinstance(each, asyncio.Future) else each for each in arguments]
        return await getattr(self.target, name)(*values)


class Echo:
    """A separator that gives every chunk back, or the same answer or error each time."""

    def __init__(self, instead: Failure | Exception | None = None) -> None:
        self.instead = instead
        self.chunks: list[int] = []

    async def report(self) -> dict[str, Any]:
        return {}

    async def separate(self, chunk: Chunk, index: int, late_s: float = 0.0) -> Stems | Failure:
        self.chunks.append(chunk.index)
        if isinstance(self.instead, Exception):
            raise self.instead
        return self.instead or Stems({"audio": chunk.samples}, chunk.sample_rate, chunk.index)


class Counting(Echo):
    """A separator that says when it has separated some chunks."""

    def __init__(self, chunks: int) -> None:
        super().__init__()
        self.least, self.reached = chunks, asyncio.Event()

    async def separate(self, chunk: Chunk, index: int, late_s: float = 0.0) -> Stems | Failure:
        if len(self.chunks) + 1 >= self.least:
            self.reached.set()
        return await super().separate(chunk, index, late_s)


class Waiting(Echo):
    """A separator that answers when another one has separated some chunks."""

    def __init__(self, other: Counting) -> None:
        super().__init__()
        self.other = other

    async def separate(self, chunk: Chunk, index: int, late_s: float = 0.0) -> Stems | Failure:
        await self.other.reached.wait()
        return await super().separate(chunk, index, late_s)


def graph(chunker: object, merger: object, settings: RecordingSettings | None = None) -> SeparationGraph:
    recordings = Recordings([cast("Any", Remote(chunker))], settings or RecordingSettings())
    return SeparationGraph(recordings, cast("Any", Remote(merger)), SeparationSettings())


class Bench:
    """A graph with one model on two placements."""

    def __init__(self, cuda: Echo, cpu: Echo) -> None:
        handles = {"cuda": Remote(cuda), "cpu": Remote(cpu)}
        self.directory = directory_of(CONFIG, {"echo": cast("Any", handles)})
        self.chunker = Chunker(RecordingSettings())
        helpers = self.chunker, Merger()
        self.graph = graph(*helpers)
        self.admission = Admission(AdmissionSettings(), clock=lambda: 0.0)
        self.ticket: Ticket = self.admission.admit(["echo@cuda", "echo@cpu"], None, 3.0)

    async def separate(self, recording: bytes, gaps: tuple[str, ...] = ()) -> list[Merged]:
        run = self.graph.run(blocks(recording), TASK, self.directory, self.ticket, "echo", silent_gaps=gaps)
        return [merged async for merged in run]


async def blocks(recording: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(recording), 10_000):
        yield recording[start : start + 10_000]


def sound_in(parts: list[Merged]) -> Any:
    return np.concatenate([part.stems["audio"] for part in parts], axis=1)


async def test_a_recording_comes_back_whole_and_is_shared_by_the_placements() -> None:
    cpu = Counting(chunks=1)
    cuda = Waiting(cpu)
    bench = Bench(cuda, cpu)
    recording = make("wav16", seconds=5)
    parts = await bench.separate(recording)
    expected = decode_all(recording, sample_rate=RATE, mono=False, max_seconds=60)
    np.testing.assert_allclose(sound_in(parts), expected, atol=1e-6)
    assert cuda.chunks and cpu.chunks
    assert sorted(cuda.chunks + cpu.chunks) == list(range(len(parts)))
    for _ in range(10):  # the session's end is sent without waiting for its answer
        await asyncio.sleep(0)
    assert await bench.chunker.sessions() == 0


async def test_admission_learns_how_long_the_recording_was_and_which_placement_separates() -> None:
    bench = Bench(Echo(), Echo(BUSY))
    parts = await bench.separate(make("wav16", seconds=5))
    assert bench.ticket.made_seconds == pytest.approx(sum(part.seconds for part in parts)) == pytest.approx(5.0)
    assert not bench.ticket.open
    assert all(report.open == 0 for report in bench.admission.snapshot().values())
    known = {placed.name: placed.first_answer_s for placed in bench.directory.placements("echo")}
    assert known["echo@cuda"] is not None and known["echo@cpu"] is None


@pytest.mark.parametrize("trouble", [BUSY, Failure("engine", "The model failed."), RayActorError()])
async def test_a_chunk_that_one_placement_does_not_take_goes_to_the_other(trouble: Failure | Exception) -> None:
    cuda, cpu = Echo(trouble), Echo()
    bench = Bench(cuda, cpu)
    parts = await bench.separate(make("wav16", seconds=3))
    assert sound_in(parts).shape[1] == 3 * RATE
    assert cuda.chunks and set(cpu.chunks) == set(range(len(parts)))


async def test_a_session_is_kept_while_a_model_takes_longer_than_an_idle_one_lasts() -> None:
    kept = asyncio.Event()

    class Watched(Chunker):
        async def keep(self, name: str) -> None:
            assert self._session(name) is not None
            kept.set()

    class Slow(Echo):
        async def separate(self, chunk: Chunk, index: int, late_s: float = 0.0) -> Stems | Failure:
            await kept.wait()
            return await super().separate(chunk, index, late_s)

    bench = Bench(Slow(), Slow())
    bench.graph = graph(Watched(RecordingSettings()), Merger(), RecordingSettings(session_idle_s=1e-6))
    parts = await bench.separate(make("wav16", seconds=3))
    assert sound_in(parts).shape[1] == 3 * RATE


async def test_a_session_is_kept_while_the_next_part_is_needed_after_another_model() -> None:
    kept = asyncio.Event()

    class Watched(Chunker):
        async def keep(self, name: str) -> None:
            kept.set()

    bench = Bench(Echo(), Echo())
    bench.graph = graph(Watched(RecordingSettings()), Merger(), RecordingSettings(session_idle_s=1e-6))
    asked = asyncio.Event()

    def needed() -> bool:
        asked.set()
        return True

    recording = blocks(make("wav16", seconds=30))
    async with aclosing(bench.graph.run(recording, TASK, bench.directory, bench.ticket, "echo", needed)) as parts:
        assert await anext(parts)
        assert not asked.is_set()
        kept.clear()
        await asked.wait()
        await kept.wait()


async def test_a_refusal_of_every_placement_keeps_its_retry_after() -> None:
    bench = Bench(Echo(BUSY), Echo(BUSY))
    with pytest.raises(MotetError) as caught:
        await bench.separate(make("wav16", seconds=3))
    assert caught.value.failure == BUSY
    assert not bench.ticket.open
    assert all(placed.under_way == 0 for placed in bench.directory.placements("echo"))


async def test_a_slow_placement_holds_no_fast_one_back() -> None:
    fast = Counting(chunks=12)
    slow = Waiting(fast)
    bench = Bench(slow, fast)
    parts = await asyncio.wait_for(bench.separate(make("wav16", seconds=12)), 30)
    assert sound_in(parts).shape[1] == 12 * RATE
    assert slow.chunks and len(fast.chunks) >= 12


class Poisoned(Echo):
    """A separator that fails on some chunks."""

    def __init__(self, *poison: int, kind: Kind = "engine") -> None:
        super().__init__()
        self.poison = poison
        self.kind: Kind = kind

    async def separate(self, chunk: Chunk, index: int, late_s: float = 0.0) -> Stems | Failure:
        stems = await super().separate(chunk, index, late_s)
        return Failure(self.kind, "The model failed on this chunk.") if index in self.poison else stems


async def test_a_chunk_that_no_placement_separates_is_a_gap_with_a_name() -> None:
    bench = Bench(Poisoned(2), Poisoned(2))
    recording = make("wav16", seconds=5)
    parts = await bench.separate(recording, gaps=("audio",))
    (gap,) = [part.gap for part in parts if part.gap]
    assert [gap.start, gap.end] == pytest.approx([1.6, 2.6])
    sound = sound_in(parts)[0]
    expected = decode_all(recording, sample_rate=RATE, mono=False, max_seconds=60)[0]
    assert len(sound) == len(expected)
    inside, outside = slice(int(1.8 * RATE), int(2.4 * RATE)), np.r_[: int(1.6 * RATE), int(2.6 * RATE) : len(sound)]
    assert not sound[inside].any()
    np.testing.assert_allclose(sound[outside], expected[outside], atol=1e-6)
    assert all(placed.under_way == 0 for placed in bench.directory.placements("echo"))


class KeptInMemory:
    """The finished parts of a job."""

    def __init__(self) -> None:
        self.parts: dict[str, bytes] = {}
        self.advanced = False

    def has(self, address: str) -> bool:
        return address in self.parts

    async def get(self, address: str) -> bytes | None:
        return self.parts.get(address)

    async def keep(self, address: str, data: bytes) -> None:
        self.advanced = self.advanced or address not in self.parts
        self.parts[address] = data


async def test_a_job_has_a_gap_only_where_it_would_end_otherwise() -> None:
    parts, recording = KeptInMemory(), make("wav16", seconds=5)
    for last_attempt, advanced in ((False, True), (False, False), (True, True)):
        bench, parts.advanced = Bench(Poisoned(2), Poisoned(2)), advanced
        token = JOB.set(RunningJob(parts, last_attempt=last_attempt))
        with pytest.raises(MotetError) as caught:
            await bench.separate(recording, gaps=("audio",))
        assert caught.value.failure.kind == "engine"
        JOB.reset(token)
    bench, parts.advanced = Bench(Poisoned(2), Poisoned(2)), False
    token = JOB.set(RunningJob(parts, last_attempt=True))
    assert [part.gap is not None for part in await bench.separate(recording, gaps=("audio",))].count(True) == 1
    JOB.reset(token)


async def test_a_job_with_several_bad_chunks_ends() -> None:
    parts, recording = KeptInMemory(), make("wav16", seconds=7)
    for _ in range(4):
        bench, parts.advanced = Bench(Poisoned(2, 5), Poisoned(2, 5)), False
        token = JOB.set(RunningJob(parts, last_attempt=True))
        try:
            found = await bench.separate(recording, gaps=("audio",))
        except MotetError:
            assert parts.advanced
        else:
            assert [part.gap is not None for part in found].count(True) == 2
            return
        finally:
            JOB.reset(token)
    pytest.fail("the job would go on for ever")


@pytest.mark.parametrize(
    ("poison", "kind", "gaps"),
    [
        pytest.param((2,), "engine", (), id="the answer cannot tell of gaps"),
        pytest.param((0,), "engine", ("audio",), id="nothing was separated before"),
        pytest.param((1, 2, 3), "engine", ("audio",), id="several in a row"),
        pytest.param((2,), "invalid", ("audio",), id="the recording is at fault"),
    ],
)
async def test_other_failures_end_the_recording(poison: tuple[int, ...], kind: Kind, gaps: tuple[str, ...]) -> None:
    bench = Bench(Poisoned(*poison, kind=kind), Poisoned(*poison, kind=kind))
    with pytest.raises(MotetError, match="failed on this chunk"):
        await bench.separate(make("wav16", seconds=5), gaps)


async def test_too_many_recordings_are_refused_until_the_first_is_predicted_to_end() -> None:
    bench = Bench(Echo(), Echo())
    bench.chunker = Chunker(RecordingSettings(max_sessions=1))
    bench.graph = graph(bench.chunker, Merger())
    assert await bench.chunker.open("other", TASK, 60.0) is None
    other = bench.admission.admit(["echo@cuda"], None, 100.0)
    with pytest.raises(MotetError) as caught:
        await bench.separate(make("wav16", seconds=3))
    failure = caught.value.failure
    assert (failure.kind, failure.code) == ("overloaded", "too_many_recordings")
    speed = bench.admission.snapshot()["echo@cuda"].speed
    assert failure.retry_after_s == pytest.approx(1.1 * other.left / speed)
    assert other.open and not bench.ticket.open


async def test_full_queues_are_an_overload_and_no_placement_is_doubted() -> None:
    bench = Bench(Echo(BackPressureError(1, 1)), Echo(BackPressureError(1, 1)))
    with pytest.raises(MotetError) as caught:
        await bench.separate(make("wav16", seconds=3))
    assert (caught.value.failure.kind, caught.value.failure.code) == ("overloaded", "model_busy")
    assert all(placed.alive for placed in bench.directory.placements("echo"))


class LostChunker:
    """One whose replica ended."""

    async def open(self, *_: object) -> None:
        raise RayActorError()

    async def close(self, name: str) -> None:
        pass


async def test_a_chunker_that_is_gone_is_an_error_that_clients_understand() -> None:
    bench = Bench(Echo(), Echo())
    bench.graph = graph(LostChunker(), Merger())
    with pytest.raises(MotetError) as caught:
        await bench.separate(b"RIFF")
    failure = caught.value.failure
    assert (failure.kind, failure.code) == ("unavailable", "recording_interrupted")
    assert "actor" not in failure.message.lower() and "ActorError" in (failure.detail or "")
    assert not bench.ticket.open


class MergerLostOnce(Merger):
    """One whose replica ends during the second join, and is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.joins = 0

    async def join(self, *arguments: Any) -> Any:
        self.joins += 1
        if self.joins == 2:
            raise RayActorError()
        return await super().join(*arguments)


@pytest.fixture
def suspected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The placements that were suspected."""
    names: list[str] = []
    monkeypatch.setattr(PlacedModel, "suspect", lambda placed: names.append(placed.name))
    return names


async def test_a_lost_merger_costs_no_separation_and_no_placement(suspected: list[str]) -> None:
    cuda, cpu = Echo(), Echo()
    bench = Bench(cuda, cpu)
    merger = MergerLostOnce()
    bench.graph = graph(bench.chunker, merger)
    parts = await bench.separate(make("wav16", seconds=3))
    assert sound_in(parts).shape[1] == 3 * RATE
    assert sorted(cuda.chunks + cpu.chunks) == list(range(len(parts)))
    assert merger.joins == len(parts) + 1
    assert not suspected


class ChunkerLostLater(Chunker):
    """One whose replica ends when the first chunk is fetched."""

    async def fetch(self, name: str, index: int) -> Chunk:
        raise RayActorError()


async def test_a_chunker_that_is_lost_later_costs_no_placement(suspected: list[str]) -> None:
    bench = Bench(Echo(), Echo())
    chunker = ChunkerLostLater(RecordingSettings())
    bench.graph = graph(chunker, Merger())
    with pytest.raises(MotetError) as caught:
        await bench.separate(make("wav16", seconds=3))
    assert caught.value.failure.code == "recording_interrupted"
    assert not suspected


async def test_a_lost_separator_is_suspected(suspected: list[str]) -> None:
    bench = Bench(Echo(RayActorError()), Echo())
    await bench.separate(make("wav16", seconds=3))
    assert set(suspected) == {"echo@cuda"}


class SteppedTimers:
    """Timers whose clock a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waiting: list[tuple[float, asyncio.TimerHandle]] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        due_s = self.now_s + delay
        handle = asyncio.TimerHandle(due_s, callback, (), asyncio.get_running_loop())
        self.waiting.append((due_s, handle))
        return handle

    def go_to(self, now_s: float) -> None:
        self.now_s = now_s
        due = [handle for due_s, handle in self.waiting if due_s <= now_s]
        self.waiting = [each for each in self.waiting if each[0] > now_s]
        for handle in due:
            if not handle.cancelled():
                handle._run()


async def test_a_session_that_is_left_alone_is_closed_in_time() -> None:
    timers = SteppedTimers()
    chunker = Chunker(RecordingSettings(session_idle_s=60), timers)
    assert await chunker.open("left", TASK, 60.0) is None
    assert await chunker.open("used", TASK, 60.0) is None
    assert await chunker.open("ended", TASK, 60.0) is None
    await chunker.close("ended")
    timers.go_to(50)
    await chunker.feed("used", b"RIFF", False)
    session = chunker._sessions["left"]
    timers.go_to(60)
    assert await chunker.sessions() == 1 and session._pipe is None
    timers.go_to(109)
    assert await chunker.sessions() == 1
    timers.go_to(110)
    assert await chunker.sessions() == 0
    assert not timers.waiting


async def test_a_session_is_not_idle_while_its_recording_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = SteppedTimers()
    chunker = Chunker(RecordingSettings(session_idle_s=60), timers)
    assert await chunker.open("slow", TASK, 60.0) is None
    started, go_on = threading.Event(), threading.Event()

    def cut() -> None:
        started.set()
        go_on.wait()

    monkeypatch.setattr(chunker._sessions["slow"], "cut", cut)
    asked = asyncio.create_task(chunker.next("slow"))
    await asyncio.to_thread(started.wait)
    timers.go_to(90)
    assert await chunker.sessions() == 1
    go_on.set()
    assert await asked is None
    timers.go_to(149)
    assert await chunker.sessions() == 1
    timers.go_to(150)
    assert await chunker.sessions() == 0


async def test_the_sound_of_a_session_goes_with_it() -> None:
    """At once: neither a cycle nor the decoders' thread pool, which drops a finished call some time later, keeps it."""
    chunker = Chunker(RecordingSettings())
    gc.disable()
    try:
        assert await chunker.open("a", TASK, 60.0) is None
        await chunker.feed("a", make("wav16", seconds=3), True)
        cut = await chunker.next("a")
        assert isinstance(cut, Cut) and cut.for_engine
        assert isinstance(await chunker.fetch("a", cut.ticket.index), Chunk)
        session = chunker._sessions["a"]
        held = [weakref.ref(cast("Any", each)) for each in (session._pipe, session._cuts)]
        await chunker.close("a")
        assert [each() for each in held] == [None, None]
        assert not session._ready
    finally:
        gc.enable()
