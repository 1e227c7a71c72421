"""The deployment around a recognition engine: decodes, cuts into windows, and transcribes them in batches, in order."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator

from deployments.engines.protocols import RecognitionEngine, RecognitionOptions, RecognitionTraits, Transcript, Window
from deployments.errors import Failure
from deployments.replica.base import ModelReplica
from deployments.replica.error_log import logged_failure
from deployments.replica.step_gate import Stepped
from deployments.replica.step_scheduling import StepRequest
from deployments.settings import WindowSettings
from deployments.tasks.transcription import TranscriptWindow, first_second_of_silence, windows_of


class Recognizer(ModelReplica):
    """Listens. Windows of every request share the engine's batches."""

    def prepare(self, engine: RecognitionEngine, windows: WindowSettings) -> None:
        """Takes the engine and how recordings are cut."""
        self._engine = engine
        self._windows = windows
        self._stepper = self.stepper(engine.transcribe)

    async def traits(self) -> RecognitionTraits:
        """What the model can do."""
        return self._engine.traits

    async def transcribe(
        self, recording: bytes, options: RecognitionOptions
    ) -> AsyncIterator[TranscriptWindow | Failure]:
        """A transcript for each window, in order; a `Failure` is the last item when something goes wrong.

        Raises `MotetError` (overloaded) before the first when there is no room: another replica may have some.
        """
        await self.room.ensure()
        cutter = windows_of(recording, options, self._engine.traits.sample_rate, self._windows)
        running: deque[tuple[Window, asyncio.Task[Stepped[Transcript]]]] = deque()
        try:
            while True:
                window = await asyncio.to_thread(next, cutter, None)
                if window is not None:
                    running.append((window, asyncio.create_task(self._step(window))))
                while running and (window is None or len(running) >= self._windows.windows_in_flight):
                    yield await self._oldest(running)
                if window is None:
                    return
        except Exception as error:
            yield logged_failure(error, self.model)
        finally:
            for _, task in running:
                task.cancel()
                task.add_done_callback(_forget)

    async def _oldest(self, running: deque[tuple[Window, asyncio.Task[Stepped[Transcript]]]]) -> TranscriptWindow:
        window, task = running[0]
        transcript = (await task).result
        running.popleft()
        return TranscriptWindow(transcript, window.start + self._seconds(window))

    async def _step(self, window: Window) -> Stepped[Transcript]:
        with self.load.work(self._seconds(window)):
            return await self._stepper.step(window, self._wish(window))

    def _seconds(self, window: Window) -> float:
        return len(window.samples) / self._engine.traits.sample_rate

    def _wish(self, window: Window) -> StepRequest:
        """First come, first served. Every window is padded to the model's own length, so all cost the same."""
        return StepRequest(time.monotonic())

    async def answer_once(self) -> None:
        """Listens to a second of almost nothing."""
        silence = first_second_of_silence(self._engine.traits.sample_rate)
        await self._stepper.step(silence, self._wish(silence))


def _forget(task: asyncio.Task[Stepped[Transcript]]) -> None:
    """Raises the first window's error; asyncio would log the errors of the other windows as never retrieved."""
    if not task.cancelled():
        task.exception()
