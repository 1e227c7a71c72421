"""The deployment around a speech engine: opens utterances, steps them through the gate, and closes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from deployments.engines.base import AudioChunk, SpeechEngine, SpeechRequest, SpeechTraits
from deployments.errors import Failure, as_failure
from deployments.replica import ModelReplica


class Synthesizer(ModelReplica):
    """Speaks. One replica holds one engine; many streams share its steps."""

    def prepare(self, engine: SpeechEngine[Any]) -> None:
        """Takes the engine."""
        self._engine = engine
        self._stepper = self.stepper(engine.step)

    async def traits(self) -> SpeechTraits:
        """What the model can do."""
        return self._engine.traits

    async def speak(self, request: SpeechRequest) -> AsyncIterator[AudioChunk | Failure]:
        """A chunk at a time, in order; a `Failure` is the last item when something goes wrong."""
        try:
            utterance = await self.thread.run(self._engine.open, request)
        except Exception as error:
            yield as_failure(error)
            return
        try:
            while not utterance.finished:
                yield await self._stepper.step(utterance)
        except Exception as error:
            yield as_failure(error)
        finally:
            # Without an await: a cancelled stream must free its slot even while it is being torn down.
            self.thread.submit(self._engine.close, utterance)

    async def answer_once(self) -> None:
        """Says one word."""
        voice = self._engine.traits.default_voice
        async for chunk in self.speak(SpeechRequest(("Ready.",), voice)):
            if isinstance(chunk, Failure):
                raise RuntimeError(f"The warm-up failed: {chunk.message}")
