"""The deployment around a recognition engine. Windows of all recordings share the engine's batches."""

from __future__ import annotations

import time

from deployments.engines.protocols import RecognitionEngine, RecognitionTraits, Transcript, Window
from deployments.errors import Failure
from deployments.replica.base import ModelReplica
from deployments.replica.error_log import logged_failure
from deployments.replica.step_scheduling import StepRequest, recording_deadline
from deployments.tasks.transcription import probe_window


class Recognizer(ModelReplica):
    """Transcribes recordings, window by window."""

    def prepare(self, engine: RecognitionEngine) -> None:
        """Takes the engine."""
        self._engine = engine
        self._stepper = self.stepper(engine.transcribe, most=engine.traits.batch_windows)

    async def traits(self) -> RecognitionTraits:
        """What the model can do."""
        return self._engine.traits

    async def transcribe(self, window: Window | Failure, index: int) -> Transcript | Failure:
        """The transcript of the `index`-th window of a recording, with times from its start. A failure upstream is returned
        as it is."""
        if isinstance(window, Failure):
            return window
        try:
            await self.memory_guard.ensure()
            with self.load.work(len(window.samples) / self._engine.traits.sample_rate):
                return (await self._stepper.step(window, _request(index))).result
        except Exception as error:
            return logged_failure(error, self.model)

    async def answer_once(self) -> None:
        """Transcribes a second of near silence."""
        await self._stepper.step(probe_window(self._engine.traits.sample_rate), _request(0))


def _request(index: int) -> StepRequest:
    """Every window is padded to the model's own length, so all have the same cost."""
    return StepRequest(recording_deadline(index, time.monotonic()))
