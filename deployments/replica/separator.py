"""The deployment around a separation engine. Chunks of all requests share the engine's batches, and live streams theirs."""

from __future__ import annotations

import time

import numpy as np

from deployments.engines.enhancement import StreamingEnhancement
from deployments.engines.protocols import Chunk, Samples, SeparationEngine, SeparationTraits, Stems
from deployments.errors import Failure
from deployments.replica.base import ModelReplica
from deployments.replica.call_trace import CallTrace
from deployments.replica.enhancement_calls import EnhancementCalls
from deployments.replica.enhancement_streams import Checkpoint, EnhancedAnswer
from deployments.replica.error_log import logged_failure
from deployments.replica.step_scheduling import StepRequest, recording_deadline
from deployments.tracing.context import TraceContext


class Separator(ModelReplica):
    """Separates recordings, chunk by chunk, and enhances streams while they are recorded."""

    def prepare(self, engine: SeparationEngine) -> None:
        """Takes the engine."""
        self._engine = engine
        self._stepper = self.stepper(engine.separate)
        self._live: EnhancementCalls | None = None
        if isinstance(engine, StreamingEnhancement) and (live := engine.traits.live):
            self._live = EnhancementCalls(engine, live.sample_rate, self)

    async def traits(self) -> SeparationTraits:
        """What the model can do."""
        return self._engine.traits

    def open_streams(self) -> int:
        """The number of streams that are enhanced."""
        return len(self._live.streams) if self._live else 0

    async def separate(
        self, chunk: Chunk | Failure, index: int, late_s: float = 0.0, trace: TraceContext | None = None
    ) -> Stems | Failure:
        """The chunk's stems; it is the `index`-th of its recording, and for `late_s` see `recording_deadline`. `trace` is
        the span of the call at its caller. A failure upstream is returned as it is."""
        if isinstance(chunk, Failure):
            return chunk
        try:
            await self.memory_guard.ensure()
            seconds = chunk.samples.shape[-1] / chunk.sample_rate
            with self.load.work(seconds), self.traced("separate", trace) as call:
                return (await self._stepper.step(chunk, _request(chunk, index, late_s, call))).result
        except Exception as error:
            return logged_failure(error, self.model)

    async def enhance(
        self, stream_id: str, at: int, samples: Samples, resume: Checkpoint | None = None
    ) -> EnhancedAnswer | Failure:
        """The next sound of a stream, enhanced: float32 (channels, n), n a multiple of the model's block, from sample `at` of
        the stream on. The call with sample 0 opens the stream, and one that resumes at a checkpoint continues it.

        A stream that this replica does not have, or not up to `at`, gives a `Failure` (unavailable, stream_lost).
        """
        try:
            assert self._live is not None, "the traits name live blocks"
            return await self._live.answer(stream_id, at, samples, resume)
        except Exception as error:
            return logged_failure(error, self.model)

    async def close_stream(self, stream_id: str) -> None:
        """Frees a stream whose client is gone."""
        if self._live:
            self._live.streams.close(stream_id)

    async def check_health(self) -> None:
        """As for all replicas. Closes streams that had no call for a while."""
        if self._live:
            self._live.check(self._settings.stuck_after_s)
        await super().check_health()

    async def answer_once(self) -> None:
        """Separates a second of silence."""
        rate = self._engine.traits.sample_rates[0]
        chunk = Chunk(np.zeros((1, rate), np.float32), rate, 0)
        await self._stepper.step(chunk, _request(chunk, 0))


def _request(chunk: Chunk, index: int, late_s: float = 0.0, call: CallTrace | None = None) -> StepRequest:
    """A chunk's cost is its number of samples."""
    return StepRequest(recording_deadline(index, time.monotonic(), late_s), float(chunk.samples.size), trace=call)
