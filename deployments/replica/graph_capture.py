"""Captures an engine's steps as graphs while the replica is idle, and reports how many steps replay one.

A capture takes from a moment to minutes. Therefore sizes of steps that had no graph wait until the replica has been idle for
a while. They are captured one at a time, beside the replica's event loop.
"""

from __future__ import annotations

import asyncio

from deployments.engines.graph_protocol import CapturesGraphs, CaptureStats
from deployments.replica.engine_thread import EngineThread
from deployments.replica.metrics import CaptureMetrics
from deployments.replica.step_gate import Item, Result, followed_by
from deployments.tasks.engine_calls import Advance

MAX_CAPTURE_S = 900.0
"""An engine that captures counts as stuck only after this."""


class GraphCapture:
    """The captures of an engine that `CapturesGraphs`; no effect for other engines."""

    def __init__(self, engine: object, thread: EngineThread, metrics: CaptureMetrics) -> None:
        self._captured = engine.captured if isinstance(engine, CapturesGraphs) else None
        self._thread = thread
        self._metrics = metrics
        self._task: asyncio.Task[bool] | None = None

    @property
    def stats(self) -> CaptureStats | None:
        """Steps and captures so far, if the engine captures any."""
        return self._captured.counts if self._captured else None

    @property
    def under_way(self) -> bool:
        """Whether a step is being captured now."""
        return self._task is not None and not self._task.done()

    def watched(self, advance: Advance[Item, Result]) -> Advance[Item, Result]:
        """The engine's call, followed by an update of the metrics."""
        return followed_by(advance, self.update_metrics) if self._captured else advance

    def update_metrics(self) -> None:
        """Sets the metrics to the stats so far."""
        if self._captured is not None:
            self._metrics.set(self._captured.counts)

    def capture_when_idle(self, idle_s: float, after_s: float) -> None:
        """Starts to capture one size if one is missing and the replica has been idle for `after_s`."""
        if self._captured is not None and idle_s >= after_s and not self.under_way:
            self._task = asyncio.create_task(self._thread.run(self._capture))

    def _capture(self) -> bool:
        assert self._captured is not None
        captured = self._captured.capture_one_wanted()
        if captured:
            self.update_metrics()
        return captured
