"""MLX's memory limit: the cache is freed first, then new work is refused."""

from __future__ import annotations

import pytest

pytest.importorskip("mlx")

import psutil

from deployments.engines.limits import LimitsMemory, Memory
from deployments.engines.mlx import memory
from deployments.engines.mlx.memory import MlxEngine, UnifiedMemory
from deployments.engines.mlx.runtime import mx
from deployments.engines.protocols import EngineSpec
from deployments.errors import MotetError


class Meter:
    """Stands for MLX's own figures."""

    def __init__(self, active: int, cached: int) -> None:
        self.active, self.cached = active, cached
        self.cleared = 0

    def measure(self) -> Memory:
        return Memory(self.active, self.cached, self.active + 1)

    def clear(self) -> None:
        self.cleared += 1
        self.cached = 0

    def memory(self, limit: int) -> UnifiedMemory:
        return UnifiedMemory(limit, self.measure, self.clear)


def test_below_the_share_nothing_is_done() -> None:
    meter = Meter(active=50, cached=30)
    assert meter.memory(80).memory_refusal() is None
    assert meter.cleared == 0


def test_the_cache_is_given_back_before_anyone_is_refused() -> None:
    meter = Meter(active=70, cached=30)
    assert meter.memory(80).memory_refusal() is None
    assert meter.cleared == 1
    assert meter.memory(80).memory_refusal() is None
    assert meter.cleared == 1


def test_above_the_share_the_refusal_says_what_to_do() -> None:
    refusal = Meter(active=90, cached=30).memory(80).memory_refusal()
    assert isinstance(refusal, MotetError)
    failure = refusal.failure
    assert (failure.kind, failure.code) == ("overloaded", "memory_full")
    assert "memory_share" in failure.remedy


def test_the_share_is_of_the_physical_memory_and_checked() -> None:
    total = psutil.virtual_memory().total
    assert UnifiedMemory.of(EngineSpec("m", "", "mlx", 1)).limit_bytes == int(0.8 * total)
    assert UnifiedMemory.of(EngineSpec("m", "", "mlx", 1, {"memory_share": 0.5})).limit_bytes == int(0.5 * total)
    for share in (0, 1.5, -1):
        with pytest.raises(MotetError, match="share"):
            UnifiedMemory.of(EngineSpec("m", "", "mlx", 1, {"memory_share": share}))


def test_an_engine_on_mlx_knows_what_it_holds() -> None:
    engine = MlxEngine(EngineSpec("m", "", "mlx", 1))
    assert isinstance(engine, LimitsMemory)
    before = engine.memory().active_bytes
    array = mx.zeros((1000, 1000))
    mx.eval(array)
    assert engine.memory().active_bytes - before >= array.nbytes
    assert memory.measured().peak_bytes >= engine.memory().active_bytes
