"""The deployment around a recognition engine: decodes, cuts into windows, and transcribes them in batches, in order."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

from deployments.engines.protocols import RecognitionEngine, RecognitionOptions, RecognitionTraits, Transcript, Window
from deployments.errors import Failure
from deployments.replica.base import ModelReplica
from deployments.replica.error_log import logged_failure
from deployments.replica.step_scheduling import StepRequest
from deployments.settings import WindowSettings
from deployments.tasks.engine_calls import next_in_thread
from deployments.tasks.transcription import TranscriptWindow, probe_window, task_for, transcribe_all


class Recognizer(ModelReplica):
    """Transcribes. Windows of all requests share the engine's batches."""

    def prepare(self, engine: RecognitionEngine, windows: WindowSettings) -> None:
        """Takes the engine, and how recordings are cut."""
        self._engine = engine
        self._windows = windows
        self._stepper = self.stepper(engine.transcribe)

    async def traits(self) -> RecognitionTraits:
        """What the model can do."""
        return self._engine.traits

    async def transcribe(
        self, recording: bytes, options: RecognitionOptions
    ) -> AsyncIterator[TranscriptWindow | Failure]:
        """A transcript for each window, in order. A `Failure` is the last item if something goes wrong.

        Raises `MotetError` (overloaded) before the first item if the engine has no room. Another replica may have some.
        """
        await self.memory_guard.ensure()
        task, settings = task_for(self._engine.traits, options), self._windows
        windows = transcribe_all(
            [io.BytesIO(recording)], task, settings, self._start, settings.windows_in_flight or 4, next_in_thread
        )
        async with aclosing(windows):
            async for _, window in windows:
                yield logged_failure(window, self.model) if isinstance(window, Exception) else window

    def _start(self, window: Window) -> asyncio.Task[Transcript]:
        call = asyncio.create_task(self._step(window))
        call.add_done_callback(_forget)
        return call

    async def _step(self, window: Window) -> Transcript:
        with self.load.work(self._seconds(window)):
            return (await self._stepper.step(window, self._request(window))).result

    def _seconds(self, window: Window) -> float:
        return len(window.samples) / self._engine.traits.sample_rate

    def _request(self, window: Window) -> StepRequest:
        """First come, first served. Every window is padded to the model's own length, so all have the same cost."""
        return StepRequest(time.monotonic())

    async def answer_once(self) -> None:
        """Transcribes a second of near silence."""
        probe = probe_window(self._engine.traits.sample_rate)
        await self._stepper.step(probe, self._request(probe))


def _forget(call: asyncio.Task[Transcript]) -> None:
    """Retrieves the exception of a call that is not awaited; otherwise asyncio logs it as never retrieved."""
    if not call.cancelled():
        call.exception()
