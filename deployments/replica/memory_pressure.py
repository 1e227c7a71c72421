"""Whether a replica takes new work: what its engine says of its memory, asked after every step and when it is idle.

What is under way goes on. A replica that stays full although it has time to empty itself is replaced.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from deployments.engines.protocols import LimitsMemory, Memory
from deployments.errors import Failure, MotetError, as_failure, fail
from deployments.replica.after_step import Advance, Item, Result, followed_by
from deployments.replica.engine_thread import EngineThread
from deployments.replica.metrics import MemoryMetrics


class MemoryGuard:
    """An engine's room for new work; one that does not know of its memory (`LimitsMemory`) always has some."""

    def __init__(
        self, engine: Any, thread: EngineThread, metrics: MemoryMetrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine if isinstance(engine, LimitsMemory) else None
        self._thread = thread
        self._metrics = metrics
        self._clock = clock
        self._full_since: float | None = None
        self.refusal: Failure | None = None

    def watched(self, advance: Advance[Item, Result]) -> Advance[Item, Result]:
        """The engine's call, after which it is asked whether it is full."""
        return followed_by(advance, self.look) if self._engine else advance

    def look(self) -> None:
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
        """Raises `MotetError` (overloaded) when new work is refused; one that was full is asked again first."""
        if self.refusal is not None and not self._thread.busy_seconds:
            await self._thread.run(self.look)
        if self.refusal is not None:
            raise MotetError(self.refusal)

    async def check(self, limit_seconds: float) -> None:
        """Raises `MotetError` when the engine has been full for longer than its work takes to end."""
        if self._engine is None or self._thread.busy_seconds:
            return
        await self._thread.run(self.look)
        if self._full_since is not None and self._clock() - self._full_since > limit_seconds:
            raise fail(
                "unavailable",
                f"The model's memory has been full for {limit_seconds:.0f} s.",
                "The replica is restarted.",
                code="memory_stuck",
            )

    @property
    def memory(self) -> Memory | None:
        """What the engine holds now, where it knows."""
        return self._engine.memory() if self._engine else None
