"""The calls of streams that are enhanced while they are recorded, on a thread beside the engine's.

A chunk of a recording occupies the engine's thread for a second, and a listener waits for tens of milliseconds. The engine
has no state, so both threads may call it at once.
"""

from __future__ import annotations

import time
from typing import Any

from deployments.engines.enhancement import StreamingEnhancement
from deployments.engines.protocols import Samples
from deployments.replica.base import ModelReplica
from deployments.replica.cpu_scheduling import apply
from deployments.replica.engine_thread import EngineThread
from deployments.replica.enhancement_streams import (
    Checkpoint,
    EnhancedAnswer,
    EnhancedSound,
    EnhancementStreams,
    NewSound,
)
from deployments.replica.step_gate import Stepper
from deployments.replica.step_scheduling import StepRequest

MOST_TOGETHER = 16
"""Streams of one step."""


class EnhancementCalls:
    """Answers the calls of all streams of a replica."""

    def __init__(self, engine: StreamingEnhancement[Any], sample_rate: int, replica: ModelReplica) -> None:
        self.streams = EnhancementStreams(engine, sample_rate)
        self._rate = sample_rate
        self._replica = replica
        self._thread = EngineThread(f"{replica.model}-live")
        self._thread.submit(apply, replica.scheduling)
        self._stepper: Stepper[NewSound, EnhancedSound] = replica.live_stepper(
            self.streams.step, self._thread, MOST_TOGETHER
        )

    async def answer(self, stream_id: str, at: int, samples: Samples, resume: Checkpoint | None) -> EnhancedAnswer:
        """The next sound of a stream, enhanced. Raises `MotetError` as `EnhancementStreams.new_sound`, and the engine's
        errors."""
        if at == 0 or resume is not None:
            await self._replica.memory_guard.ensure()
        sound = self.streams.new_sound(stream_id, at, samples, resume)
        try:
            with self._replica.load.work(samples.shape[1] / self._rate):
                step = await self._stepper.step(sound, StepRequest(time.monotonic(), live=True))
        except BaseException:
            self.streams.close(stream_id)
            raise
        finally:
            self.streams.answered(sound)
        return EnhancedAnswer(step.result, step.took_s / step.together, self._replica.replica_id)

    def check(self, stuck_after_s: float) -> None:
        """Closes streams that had no call for a while. Raises `MotetError` (unavailable) if a step does not end."""
        self.streams.close_forgotten()
        self._thread.check(stuck_after_s)
