"""Health checks of a replica: the time limit of a step, and what runs while it is idle."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.models import Placement
from deployments.errors import MotetError
from deployments.replica.base import ModelReplica
from deployments.replica.engine_thread import EngineThread
from deployments.replica.graph_capture import MAX_CAPTURE_S, GraphCapture
from deployments.replica.load import ReplicaLoad
from deployments.replica.malloc_trim import EVERY_S, MallocTrim
from deployments.replica.memory_pressure import MemoryGuard
from deployments.settings import StepSettings

STUCK_AFTER_S = Placement().stuck_after_s
IDLE_S = StepSettings().capture_after_idle_s


class SizeCapture:
    """Counts the sizes that are captured."""

    def __init__(self) -> None:
        self.counts = None
        self.captures = 0

    def capture_one_wanted(self) -> bool:
        self.captures += 1
        return False


class Engine:
    """One whose step is captured."""

    def __init__(self) -> None:
        self.captured = SizeCapture()

    def step(self, items: Sequence[int]) -> list[int | Exception]:
        return list(items)


class Bench:
    """A replica without Ray, on a clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now, self.engine = 0.0, Engine()
        thread: EngineThread = EngineThread("replica", clock=self.clock)
        self.replica: Any = ModelReplica.__new__(ModelReplica)
        settings: Any = Placement()  # of a replica's settings, what a check reads
        self.replica._settings = settings
        self.replica._steps = StepSettings()
        self.replica.thread, self.replica.load = thread, ReplicaLoad(self.clock)
        self.replica.memory_guard = MemoryGuard(self.engine, thread, None)  # type: ignore[arg-type]
        self.replica.malloc_trim = MallocTrim(None)
        self.replica.graph_capture = GraphCapture(self.engine, thread, None)  # type: ignore[arg-type]

    def clock(self) -> float:
        return self.now

    async def checked(self) -> None:
        """A check, and the capture that it began, if any."""
        await self.replica.check_health()
        if self.replica.graph_capture.under_way:
            await self.replica.graph_capture._task


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_an_idle_replica_captures_when_it_is_asked_whether_it_is_well(bench: Bench) -> None:
    await bench.checked()
    bench.now = IDLE_S - 1
    await bench.checked()
    assert bench.engine.captured.captures == 0
    bench.now = IDLE_S
    await bench.checked()
    await bench.checked()
    assert bench.engine.captured.captures == 2


async def test_only_a_replica_without_work_gives_back_what_little_it_keeps(bench: Bench) -> None:
    looks: list[str] = []
    bench.replica.malloc_trim = SimpleNamespace(
        look=lambda: looks.append("look"), look_when_idle=lambda: looks.append("idle")
    )
    bench.now = EVERY_S
    with bench.replica.load.work(1.0):
        await bench.checked()
    bench.now += EVERY_S
    await bench.checked()
    await bench.replica.thread.run(lambda: None)
    assert looks == ["look", "idle"]


async def test_a_replica_at_work_captures_nothing(bench: Bench) -> None:
    with bench.replica.load.work(1.0):
        bench.now = 10 * IDLE_S
        await bench.checked()
    assert bench.engine.captured.captures == 0


async def test_a_step_that_never_ends_is_noticed_and_a_recording_may_take_longer(bench: Bench) -> None:
    bench.replica.thread._busy_since = 0.0
    with bench.replica.load.work(1.0):
        bench.now = STUCK_AFTER_S
        await bench.replica.check_health()
        bench.now = STUCK_AFTER_S + 1
        with pytest.raises(MotetError, match="in one step"):
            await bench.replica.check_health()
        bench.replica.graph_capture._task = asyncio.create_task(asyncio.Event().wait())
        for bench.now in (STUCK_AFTER_S + 1, MAX_CAPTURE_S):
            await bench.replica.check_health()
        bench.now = MAX_CAPTURE_S + 1
        with pytest.raises(MotetError, match="in one step"):
            await bench.replica.check_health()
        bench.replica.graph_capture._task.cancel()


@pytest.mark.parametrize(("idle_s", "looks"), [(EVERY_S - 1, "look"), (EVERY_S, "look_when_idle")])
async def test_an_idle_replica_gives_its_memory_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, idle_s: float, looks: str
) -> None:
    looked: list[str] = []
    for name in ("look", "look_when_idle"):
        monkeypatch.setattr(bench.replica.malloc_trim, name, partial(looked.append, name))
    bench.now = idle_s
    await bench.checked()
    await bench.replica.thread.run(int)
    assert looked == [looks]
