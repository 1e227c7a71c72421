"""Live streams at a replica: who is heard when, what a lost stream gives, and that nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from deployments.engines.growing_windows import GrowingWindows
from deployments.engines.protocols import RecognitionOptions, Window
from deployments.engines.streaming import PartialTranscript
from deployments.errors import Failure, MotetError
from deployments.replica.live_streams import IDLE_S, MOST_STREAMS, LiveStream, LiveStreams
from deployments.replica.load import ReplicaLoad
from deployments.replica.recognizer import Recognizer
from deployments.replica.step_gate import StepResult
from deployments.replica.step_scheduling import Candidate, StepRequest, choose, live_deadline, recording_deadline
from deployments.settings import StepSettings
from tests.unit.test_growing_windows import NumberEngine, is_loud, numbers, windows_over

OPTIONS = RecognitionOptions()


class Here:
    """The engine's thread: the caller's."""

    def submit(self, function: Callable[[LiveStream], object], stream: LiveStream, /) -> None:
        function(stream)


def packed(*words: int) -> bytes:
    return (numbers(*words) * 32768).astype("<i2").tobytes()


class Table:
    """The streams of an engine that hears numbers, on a clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0
        self.engine = NumberEngine()
        self.streams = LiveStreams(windows_over(self.engine), Here(), lambda: self.now)

    def hear(
        self, stream_id: str, at: int, samples: bytes, finish_at: int | None = None
    ) -> PartialTranscript | Exception:
        hearing = self.streams.hearing(stream_id, OPTIONS, at, samples, finish_at)
        try:
            return self.streams.step([hearing])[0]
        finally:
            self.streams.answered(hearing)


def text(result: PartialTranscript | Exception) -> str:
    assert isinstance(result, PartialTranscript)
    return result.committed + result.tentative


def test_a_stream_is_heard_over_several_calls() -> None:
    table = Table()
    first, second = packed(1, 2), packed(3)
    assert text(table.hear("a", 0, first)) == "1 2"
    assert text(table.hear("a", len(first) // 2, second)) == "1 2 3"
    last = table.hear("a", (len(first) + len(second)) // 2, b"", (len(first) + len(second)) // 2)
    assert isinstance(last, PartialTranscript)
    assert (last.last, last.committed) == (True, "1 2 3")


@pytest.mark.parametrize("at", [100, 1])
def test_a_stream_that_is_not_here_or_lacks_samples_is_lost(at: int) -> None:
    table = Table()
    if at == 1:
        table.hear("a", 0, packed(1))
    with pytest.raises(MotetError) as lost:
        table.hear("a", at, packed(1))
    assert (lost.value.failure.kind, lost.value.failure.code) == ("unavailable", "stream_lost")
    assert len(table.streams) == 0


def test_streams_are_bounded_and_forgotten_ones_close() -> None:
    table = Table()
    for number in range(MOST_STREAMS):
        table.hear(str(number), 0, packed(1))
    with pytest.raises(MotetError, match="live streams"):
        table.hear("one more", 0, packed(1))
    table.now = IDLE_S + 1
    assert text(table.hear("one more", 0, packed(1))) == "1"
    assert len(table.streams) == 1


def test_a_stream_whose_call_waits_for_its_step_is_not_forgotten() -> None:
    table = Table()
    waiting = table.streams.hearing("a", OPTIONS, 0, packed(1), None)
    table.now = IDLE_S + 1
    table.streams.close_forgotten()
    assert "a" in table.streams
    table.streams.answered(waiting)
    table.now += IDLE_S
    table.streams.close_forgotten()
    assert "a" in table.streams
    table.now += 1
    table.streams.close_forgotten()
    assert "a" not in table.streams


def test_a_closed_stream_fails_alone_and_samples_are_pushed_once() -> None:
    table = Table()
    one, other = (table.streams.hearing(name, OPTIONS, 0, packed(1, 2), None) for name in "ab")
    table.streams.close("a")
    for _ in range(2):  # as a step that is repeated in halves
        lost, heard = table.streams.step([one, other])
        assert isinstance(lost, MotetError)
        assert text(heard) == "1 2"
    assert other.stream.position == len(numbers(1, 2))


def request(name: str, deadline_s: float, *, live: bool = False) -> Candidate[str]:
    return Candidate(name, StepRequest(deadline_s, live=live))


def chosen(*candidates: Candidate[str], most_beside_live: int | None = None) -> str:
    return "".join(each.item for each in choose(candidates, StepSettings(max_batch_size=4), 100.0, most_beside_live))


def test_hearings_go_before_windows_and_last_ones_before_others() -> None:
    first, later = (request(name, recording_deadline(index, 100.0)) for index, name in enumerate("wv"))
    live, last = (request(name, live_deadline(100.0, last=name == "f"), live=True) for name in "lf")
    assert chosen(first, live, later, last) == "fl"
    assert chosen(first, later) == "wv"
    assert chosen(later, first, most_beside_live=1) == "w"
    assert chosen(live, last, most_beside_live=1) == "fl"


def test_a_window_that_waited_long_goes_before_hearings() -> None:
    old = request("w", recording_deadline(0, 80.0))
    assert chosen(old, request("l", live_deadline(100.0, last=False), live=True)) == "w"


class Gate:
    most_beside_live: int | None = None


class Steps:
    """Steps of one, each when the test says so."""

    def __init__(self, replica: Any) -> None:
        self.gate = Gate()
        self.replica = replica
        self.open = asyncio.Event()
        self.open.set()

    async def step(self, item: Any, request: StepRequest) -> Any:
        await self.open.wait()
        (result,) = self.replica._advance([item])
        if isinstance(result, Exception):
            raise result
        return StepResult(result, 0.0, 0.0)


class Guard:
    async def ensure(self) -> None:
        pass


def recognizer(engine: Any) -> Any:
    replica: Any = Recognizer.__new__(Recognizer)
    replica._settings = type("Settings", (), {"model": "numbers"})
    replica.replica_id = "ear-1"
    replica.thread, replica.load, replica.memory_guard = Here(), ReplicaLoad(), Guard()
    replica.stepper = lambda advance, most: Steps(replica)
    replica.prepare(engine)
    if isinstance(replica._live._engine, GrowingWindows):
        replica._live._engine._speaks = is_loud
    return replica


async def test_a_replica_hears_a_stream_and_closes_it_at_its_end() -> None:
    replica = recognizer(NumberEngine())
    heard = await replica.listen("a", OPTIONS, 0, packed(1, 2))
    assert (text(heard.partial), heard.replica) == ("1 2", "ear-1")
    assert replica.open_streams() == 1
    assert replica._stepper.gate.most_beside_live == 4
    length = len(packed(1, 2)) // 2
    assert (await replica.listen("a", OPTIONS, length, b"", length)).partial.last
    assert replica.open_streams() == 0
    assert replica._stepper.gate.most_beside_live is None
    lost = await replica.listen("a", OPTIONS, length, packed(3))
    assert isinstance(lost, Failure)
    assert lost.code == "stream_lost"
    window = Window(numbers(5), OPTIONS)
    assert (await replica.transcribe(window, 0)).text == "5"


async def test_a_call_that_is_cancelled_frees_its_stream() -> None:
    replica = recognizer(NumberEngine())
    await replica.listen("a", OPTIONS, 0, packed(1))
    replica._stepper.open.clear()
    call = asyncio.create_task(replica.listen("a", OPTIONS, len(packed(1)) // 2, packed(2)))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert replica.open_streams() == 0
    await replica.close_stream("a")


async def test_sound_that_fails_closes_its_stream() -> None:
    replica = recognizer(NumberEngine())
    bad = await replica.listen("a", RecognitionOptions(language="xx"), 0, packed(1))
    assert isinstance(bad, Failure)
    assert bad.kind == "unsupported"
    assert replica.open_streams() == 0


async def test_an_engine_that_streams_by_itself_is_used_as_it_is() -> None:
    engine = GrowingWindows(NumberEngine())
    assert recognizer(engine)._live._engine is engine
