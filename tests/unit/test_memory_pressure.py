"""A replica whose engine is full refuses new work, reports it, and recovers when memory is free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from deployments.engines.limits import LimitsMemory, Memory
from deployments.errors import Failure, MotetError
from deployments.replica.engine_thread import EngineThread
from deployments.replica.memory_pressure import MemoryGuard

FULL = Failure("overloaded", "The memory is full.", "Try again.", code="memory_full")


class Tank:
    """An engine that is full when it is told so."""

    def __init__(self) -> None:
        self.full = False
        self.asked = 0

    def memory_refusal(self) -> Exception | None:
        self.asked += 1
        return MotetError(FULL) if self.full else None

    def memory(self) -> Memory:
        return Memory(active_bytes=3, cached_bytes=2, peak_bytes=5)


class Written:
    """Stands for the metrics."""

    def __init__(self) -> None:
        self.held_so_far: list[Memory] = []

    def held(self, memory: Memory) -> None:
        self.held_so_far.append(memory)


class Bench:
    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.now = 0.0
        self.written = Written()
        self.thread = EngineThread("tank")
        self.guard = MemoryGuard(engine, self.thread, self.written, lambda: self.now)  # type: ignore[arg-type]


@pytest.fixture
def bench() -> Bench:
    return Bench(Tank())


def double(items: Sequence[int]) -> list[int | Exception]:
    return [2 * item for item in items]


async def test_an_engine_is_asked_after_every_step(bench: Bench) -> None:
    advance = bench.guard.watched(double)
    assert advance([1, 2]) == [2, 4]
    assert bench.engine.asked == 1
    assert bench.written.held_so_far == [Memory(3, 2, 5)]
    assert bench.guard.refusal is None
    await bench.guard.ensure()


async def test_a_step_that_raises_is_followed_by_the_question_too(bench: Bench) -> None:
    def broken(items: Sequence[int]) -> list[int | Exception]:
        bench.engine.full = True
        raise ValueError("out of memory")

    with pytest.raises(ValueError, match="out of memory"):
        bench.guard.watched(broken)([1])
    assert bench.guard.refusal == FULL


async def test_new_work_is_refused_until_there_is_room(bench: Bench) -> None:
    bench.engine.full = True
    bench.guard.watched(double)([1])
    with pytest.raises(MotetError) as refused:
        await bench.guard.ensure()
    assert refused.value.failure == FULL
    bench.engine.full = False
    await bench.guard.ensure()
    assert bench.guard.refusal is None


async def test_only_a_replica_that_stays_full_is_replaced(bench: Bench) -> None:
    bench.engine.full = True
    await bench.guard.check(60)
    bench.now = 59.0
    await bench.guard.check(60)
    bench.engine.full = False
    await bench.guard.check(60)
    bench.engine.full = True
    bench.now = 70.0
    await bench.guard.check(60)
    bench.now = 131.0
    with pytest.raises(MotetError, match="restarted"):
        await bench.guard.check(60)


async def test_an_engine_that_does_not_know_has_room() -> None:
    bench = Bench(object())
    assert bench.guard.watched(double) is double
    await bench.guard.ensure()
    await bench.guard.check(0)
    assert bench.guard.memory is None
    assert not isinstance(object(), LimitsMemory)
