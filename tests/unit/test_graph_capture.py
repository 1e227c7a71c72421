"""Steps are captured while the replica is idle, one size at a time, and hooks run after every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from deployments.engines.graph_protocol import CaptureStats
from deployments.replica.engine_thread import EngineThread
from deployments.replica.graph_capture import GraphCapture
from deployments.replica.load import ReplicaLoad


@dataclass
class Recorder:
    """Wants so many sizes."""

    wanted: int
    counts: CaptureStats = field(default_factory=CaptureStats)

    def capture_one_wanted(self) -> bool:
        if not self.wanted:
            return False
        self.wanted -= 1
        self.counts.captures += 1
        self.counts.capture_seconds += 2.0
        return True


@dataclass
class Engine:
    captured: Recorder

    def step(self, items: Sequence[int]) -> list[int | Exception]:
        self.captured.counts.plain += 1
        return list(items)


@dataclass
class Written:
    """Stands for the metrics."""

    told_so_far: list[CaptureStats] = field(default_factory=list)

    def set(self, counts: CaptureStats) -> None:
        self.told_so_far.append(replace(counts))


@pytest.fixture
def written() -> Written:
    return Written()


def capture_of(engine: object, written: Written) -> GraphCapture:
    return GraphCapture(engine, EngineThread("captures"), written)  # type: ignore[arg-type]


async def settled(capture: GraphCapture) -> None:
    assert capture._task is not None
    await capture._task


async def test_one_size_is_captured_in_an_idle_moment(written: Written) -> None:
    engine = Engine(Recorder(wanted=2))
    capture = capture_of(engine, written)
    capture.capture_when_idle(idle_s=59.0, after_s=60.0)
    begun = [capture.under_way]
    capture.capture_when_idle(60.0, 60.0)
    begun.append(capture.under_way)
    capture.capture_when_idle(60.0, 60.0)  # one at a time
    assert begun == [False, True]
    await settled(capture)
    assert capture.stats == CaptureStats(captures=1, capture_seconds=2.0)
    assert written.told_so_far == [capture.stats]


async def test_who_comes_while_a_size_is_captured_waits_for_no_other(written: Written) -> None:
    clock = [0.0]
    load, thread, engine = ReplicaLoad(lambda: clock[-1]), EngineThread("captures"), Engine(Recorder(wanted=3))
    capture = GraphCapture(engine, thread, written)  # type: ignore[arg-type]
    clock.append(60.0)
    capture.capture_when_idle(load.idle_seconds, 60.0)
    with load.work(1.0):
        assert await thread.run(engine.step, [1]) == [1]
        await settled(capture)
        capture.capture_when_idle(load.idle_seconds, 60.0)
        assert not capture.under_way
    for now, captures in ((119.0, 1), (120.0, 2)):
        clock.append(now)
        capture.capture_when_idle(load.idle_seconds, 60.0)
        await settled(capture)
        assert engine.captured.counts.captures == captures


async def test_when_nothing_is_wanted_nothing_is_told(written: Written) -> None:
    capture = capture_of(Engine(Recorder(wanted=0)), written)
    capture.capture_when_idle(60.0, 60.0)
    await settled(capture)
    assert written.told_so_far == []


def test_every_step_is_told(written: Written) -> None:
    engine = Engine(Recorder(wanted=0))
    assert capture_of(engine, written).watched(engine.step)([1, 2]) == [1, 2]
    assert written.told_so_far == [CaptureStats(plain=1)]


async def test_an_engine_that_captures_nothing_is_left_alone(written: Written) -> None:
    capture = capture_of(object(), written)

    def step(items: Sequence[int]) -> list[int | Exception]:
        return list(items)

    assert capture.watched(step) is step
    capture.capture_when_idle(60.0, 60.0)
    assert not capture.under_way and capture.stats is None
