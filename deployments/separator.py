"""The deployment around a separation engine: chunks of every request share the engine's batches."""

from __future__ import annotations

import numpy as np

from deployments.engines.base import Chunk, SeparationEngine, SeparationTraits, Stems
from deployments.errors import Failure, as_failure
from deployments.replica import ModelReplica, ReplicaSettings
from deployments.stepping import Stepper


class Separator(ModelReplica):
    """Takes sound apart, chunk by chunk."""

    async def __init__(self, settings: ReplicaSettings) -> None:
        engine: SeparationEngine = await self.load(settings)
        self._engine = engine
        self._stepper: Stepper[Chunk, Stems] = Stepper(engine.separate, self.thread, settings.steps)
        await self.warm_up(self._separate_something)

    async def traits(self) -> SeparationTraits:
        """What the model can do."""
        return self._engine.traits

    async def separate(self, chunk: Chunk | Failure) -> Stems | Failure:
        """The chunk's stems. A failure upstream is handed on."""
        if isinstance(chunk, Failure):
            return chunk
        try:
            return await self._stepper.step(chunk)
        except Exception as error:
            return as_failure(error)

    async def _separate_something(self) -> None:
        rate = self._engine.traits.sample_rates[0]
        await self._stepper.step(Chunk(np.zeros((1, rate), np.float32), rate, 0))
