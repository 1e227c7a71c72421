"""The deployment around a recognition engine. Windows of all recordings share batches, and so do live streams."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from deployments.engines.growing_windows import GrowingWindows
from deployments.engines.protocols import RecognitionEngine, RecognitionOptions, RecognitionTraits, Transcript, Window
from deployments.engines.streaming import PartialTranscript, StreamingRecognition
from deployments.errors import Failure
from deployments.replica.base import ModelReplica
from deployments.replica.call_trace import CallTrace
from deployments.replica.error_log import logged_failure
from deployments.replica.live_streams import HeardStream, Hearing, LiveStreams
from deployments.replica.step_gate import Stepper
from deployments.replica.step_scheduling import StepRequest, live_deadline, recording_deadline
from deployments.tasks.engine_calls import one_for_each
from deployments.tasks.transcription import probe_window
from deployments.tracing.context import TraceContext


class Recognizer(ModelReplica):
    """Transcribes recordings, window by window, and hears streams while they are spoken."""

    def prepare(self, engine: RecognitionEngine) -> None:
        """Takes the engine. One that does not stream by itself hears windows that grow."""
        self._engine = engine
        self._live = LiveStreams(
            engine if isinstance(engine, StreamingRecognition) else GrowingWindows(engine), self.thread
        )
        self._stepper: Stepper[Window | Hearing, Any] = self.stepper(self._advance, most=engine.traits.batch_windows)

    async def traits(self) -> RecognitionTraits:
        """What the model can do."""
        return self._engine.traits

    def open_streams(self) -> int:
        """The number of live streams."""
        return len(self._live)

    async def transcribe(
        self, window: Window | Failure, index: int, late_s: float = 0.0, trace: TraceContext | None = None
    ) -> Transcript | Failure:
        """The transcript of the `index`-th window of a recording, with times from its start; `late_s` see
        `recording_deadline`, and `trace` is the span of the call at its caller. A failure upstream is returned as it is."""
        if isinstance(window, Failure):
            return window
        try:
            await self.memory_guard.ensure()
            seconds = len(window.samples) / self._engine.traits.sample_rate
            with self.load.work(seconds), self.traced("transcribe", trace) as call:
                return await self._hear(window, index, late_s, call)
        except Exception as error:
            return logged_failure(error, self.model)

    async def listen(
        self,
        stream_id: str,
        options: RecognitionOptions,
        at: int,
        samples: bytes,
        finish_at: int | None = None,
        trace: TraceContext | None = None,
    ) -> HeardStream | Failure:
        """What is known of a stream after `samples`: mono int16, little-endian, at 16 kHz, from sample `at` of the stream on.
        The call with sample 0 opens it; `finish_at` says that the speech ended there, and closes it.

        A stream that this replica does not have, or not up to `at`, gives a `Failure` (unavailable, stream_lost).
        """
        try:
            if at == 0:
                await self.memory_guard.ensure()
            hearing = self._live.hearing(stream_id, options, at, samples, finish_at)
            self._limit_windows()
            try:
                seconds = len(hearing.samples) / self._engine.traits.sample_rate
                with self.load.work(seconds), self.traced("listen", trace) as call:
                    heard = await self._listen(hearing, call)
            except BaseException:
                self._close(stream_id)
                raise
            finally:
                self._live.answered(hearing)
            if heard.partial.last:
                self._close(stream_id)
            return heard
        except Exception as error:
            return logged_failure(error, self.model)

    async def close_stream(self, stream_id: str) -> None:
        """Frees a stream whose client is gone."""
        self._close(stream_id)

    async def check_health(self) -> None:
        """As for all replicas. Closes streams that had no call for a while."""
        self._live.close_forgotten()
        self._limit_windows()
        await super().check_health()

    def _close(self, stream_id: str) -> None:
        self._live.close(stream_id)
        self._limit_windows()

    def _limit_windows(self) -> None:
        """While live streams are open, windows of recordings take half steps, so that a hearing does not wait for long."""
        half = max(1, self._engine.traits.batch_windows // 2)
        self._stepper.gate.most_beside_live = half if len(self._live) else None

    def _advance(self, items: Sequence[Window | Hearing]) -> list[Transcript | PartialTranscript | Exception]:
        """One step. Windows and hearings come in different steps, unless the step gate is switched off."""
        windows = [item for item in items if isinstance(item, Window)]
        hearings = [item for item in items if isinstance(item, Hearing)]
        transcripts = iter(one_for_each(self._engine.transcribe(windows), windows) if windows else [])
        partials = iter(one_for_each(self._live.step(hearings), hearings) if hearings else [])
        return [next(transcripts) if isinstance(item, Window) else next(partials) for item in items]

    async def _hear(self, window: Window, index: int, late_s: float = 0.0, call: CallTrace | None = None) -> Transcript:
        """All windows count as equally expensive: those of recordings are about as long as the model takes."""
        request = StepRequest(recording_deadline(index, time.monotonic(), late_s), trace=call)
        transcript: Transcript = (await self._stepper.step(window, request)).result
        return transcript

    async def _listen(self, hearing: Hearing, call: CallTrace | None) -> HeardStream:
        deadline_s = live_deadline(time.monotonic(), last=hearing.finish_at is not None)
        step = await self._stepper.step(hearing, StepRequest(deadline_s, live=True, trace=call))
        return HeardStream(step.result, step.took_s, step.together, self.replica_id)

    async def answer_once(self) -> None:
        """Transcribes a second of near silence."""
        await self._hear(probe_window(self._engine.traits.sample_rate), 0)
