"""The recorded steps of a replica's engine: told to the metrics after every step, and made while nobody asks for anything.

Recording a step takes an engine from a moment to minutes. Sizes that steps asked for in vain therefore wait until the replica
has been idle for a while, and are recorded one at a time, beside the replica's event loop.
"""

from __future__ import annotations

import asyncio

from deployments.engines.protocols import CapturesGraphs, CaptureStats
from deployments.replica.after_step import Advance, Item, Result, followed_by
from deployments.replica.engine_thread import EngineThread
from deployments.replica.metrics import RecordMetrics

LONGEST_RECORDING_S = 900.0
"""An engine that records is stuck only after this."""


class GraphCapture:
    """What an engine that records its step (`CapturesGraphs`) is watched for; others have nothing to record."""

    def __init__(self, engine: object, thread: EngineThread, metrics: RecordMetrics) -> None:
        self._recorder = engine.captured if isinstance(engine, CapturesGraphs) else None
        self._thread = thread
        self._metrics = metrics
        self._task: asyncio.Task[bool] | None = None

    @property
    def records(self) -> CaptureStats | None:
        """What became of the steps so far, where the engine records any."""
        return self._recorder.counts if self._recorder else None

    @property
    def under_way(self) -> bool:
        """Whether a step is being recorded now."""
        return self._task is not None and not self._task.done()

    def watched(self, advance: Advance[Item, Result]) -> Advance[Item, Result]:
        """The engine's call, after which its records are told."""
        return followed_by(advance, self.tell) if self._recorder else advance

    def tell(self) -> None:
        """The records become metrics."""
        if self._recorder is not None:
            self._metrics.told(self._recorder.counts)

    def record_when_idle(self, idle_seconds: float, after_seconds: float) -> None:
        """Begins to record one size when there has been no work for `after_seconds`, and one is wanted."""
        if self._recorder is not None and idle_seconds >= after_seconds and not self.under_way:
            self._task = asyncio.create_task(self._thread.run(self._record))

    def _record(self) -> bool:
        assert self._recorder is not None
        recorded = self._recorder.capture_one_wanted()
        if recorded:
            self.tell()
        return recorded
