"""Whether a replica takes new work: its engine is asked about its memory after every step and while it is idle.

Requests that are under way go on. A replica that stays full although it is idle is replaced.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from deployments.engines.limits import LimitsMemory, Memory
from deployments.errors import Failure, MotetError, as_failure, fail
from deployments.replica.engine_thread import EngineThread
from deployments.replica.metrics import MemoryMetrics
from deployments.replica.step_gate import Item, Result, followed_by
from deployments.tasks.engine_calls import Advance


class MemoryGuard:
    """Refuses new work while the engine is out of memory. Engines that do not measure theirs (`LimitsMemory`) never are."""

    def __init__(
        self, engine: Any, thread: EngineThread, metrics: MemoryMetrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine if isinstance(engine, LimitsMemory) else None
        self._thread = thread
        self._metrics = metrics
        self._clock = clock
        self._full_since: float | None = None
        self.refusal: Failure | None = None
        """Why no new work is taken now."""

    def watched(self, advance: Advance[Item, Result]) -> Advance[Item, Result]:
        """The engine's call, followed by a check of its memory."""
        return followed_by(advance, self.update) if self._engine else advance

    def update(self) -> None:
        """Asks the engine. Runs on its thread."""
        if self._engine is None:
            return
        refusal = self._engine.memory_refusal()
        self.refusal = None if refusal is None else as_failure(refusal)
        self._metrics.held(self._engine.memory())
        if self.refusal is None:
            self._full_since = None
        elif self._full_since is None:
            self._full_since = self._clock()

    async def ensure(self) -> None:
        """Raises `MotetError` (overloaded) while new work is refused. An idle engine is asked again first."""
        if self.refusal is not None and not self._thread.busy_seconds:
            await self._thread.run(self.update)
        if self.refusal is not None:
            raise MotetError(self.refusal)

    async def check(self, limit_s: float) -> None:
        """Raises `MotetError` (unavailable) if the idle engine has been full for longer than `limit_s`."""
        if self._engine is None or self._thread.busy_seconds:
            return
        await self._thread.run(self.update)
        if self._full_since is not None and self._clock() - self._full_since > limit_s:
            cause = f"The model's memory has been full for {limit_s:.0f} s."
            raise fail("unavailable", cause, "The replica is restarted.", code="memory_stuck")

    @property
    def memory(self) -> Memory | None:
        """What the engine holds now, if it measures that."""
        return self._engine.memory() if self._engine else None
