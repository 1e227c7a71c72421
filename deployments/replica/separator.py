"""The deployment around a separation engine. Chunks of all requests share the engine's batches."""

from __future__ import annotations

import time

import numpy as np

from deployments.engines.protocols import Chunk, SeparationEngine, SeparationTraits, Stems
from deployments.errors import Failure
from deployments.replica.base import ModelReplica
from deployments.replica.error_log import logged_failure
from deployments.replica.step_scheduling import StepRequest, recording_deadline


class Separator(ModelReplica):
    """Separates recordings, chunk by chunk."""

    def prepare(self, engine: SeparationEngine) -> None:
        """Takes the engine."""
        self._engine = engine
        self._stepper = self.stepper(engine.separate)

    async def traits(self) -> SeparationTraits:
        """What the model can do."""
        return self._engine.traits

    async def separate(self, chunk: Chunk | Failure, index: int) -> Stems | Failure:
        """The chunk's stems; it is the `index`-th of its recording. A failure upstream is returned as it is."""
        if isinstance(chunk, Failure):
            return chunk
        try:
            await self.memory_guard.ensure()
            with self.load.work(chunk.samples.shape[-1] / chunk.sample_rate):
                return (await self._stepper.step(chunk, _request(chunk, index))).result
        except Exception as error:
            return logged_failure(error, self.model)

    async def answer_once(self) -> None:
        """Separates a second of silence."""
        rate = self._engine.traits.sample_rates[0]
        chunk = Chunk(np.zeros((1, rate), np.float32), rate, 0)
        await self._stepper.step(chunk, _request(chunk, 0))


def _request(chunk: Chunk, index: int) -> StepRequest:
    """A chunk's cost is its number of samples."""
    return StepRequest(recording_deadline(index, time.monotonic()), float(chunk.samples.size))
