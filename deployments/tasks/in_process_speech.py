"""Speech clients for an engine in this process: one utterance at a time, or many that share the engine's steps."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from dataclasses import dataclass
from typing import Generic

from deployments.engines.protocols import AudioChunk, SpeechEngine, SpeechRequest, UtteranceT
from deployments.tasks.engine_calls import advance_or_halve, run_here
from deployments.tasks.piece_checks import PieceChecks
from deployments.tasks.speech import SpeechClient, speak
from deployments.text.sources import PieceSource


class InProcessClient(Generic[UtteranceT]):
    """Calls the engine on the caller's thread. No step waits, so that `speak_here` can run the driver without an event
    loop."""

    def __init__(self, engine: SpeechEngine[UtteranceT]) -> None:
        self._engine = engine

    def open(self, request: SpeechRequest, tempo: float = 1.0) -> InProcessCall[UtteranceT]:
        """See `SpeechClient`."""
        return InProcessCall(self, self._engine.open(request))

    async def step(self, utterance: UtteranceT) -> AudioChunk:
        """One step of one utterance. Raises what the engine returns for it."""
        return _value(self._engine.step([utterance])[0])

    def close(self, utterance: UtteranceT) -> None:
        """Frees the utterance's slot."""
        self._engine.close(utterance)


@dataclass(frozen=True, slots=True)
class InProcessCall(Generic[UtteranceT]):
    """An open utterance. See `SpeechCall`."""

    client: InProcessClient[UtteranceT]
    utterance: UtteranceT

    async def step(self) -> AudioChunk | None:
        """See `SpeechCall`."""
        while not self.utterance.finished:
            chunk = await self.client.step(self.utterance)
            if not chunk.pending:
                return chunk
        return None

    async def close(self) -> None:
        """See `SpeechCall`."""
        self.client.close(self.utterance)


class BatchedClient(InProcessClient[UtteranceT]):
    """Steps all open utterances together, in the order in which they were opened, as soon as each of them waits.

    For many drivers on one event loop, which blocks during a step. A driver that ends may begin its next text before the
    next step.
    """

    def __init__(self, engine: SpeechEngine[UtteranceT]) -> None:
        super().__init__(engine)
        self._turns: dict[int, tuple[UtteranceT, asyncio.Future[AudioChunk] | None]] = {}
        self._scheduled = False

    def open(self, request: SpeechRequest, tempo: float = 1.0) -> InProcessCall[UtteranceT]:
        """See `SpeechClient`."""
        call = super().open(request, tempo)
        self._turns[id(call.utterance)] = (call.utterance, None)
        return call

    async def step(self, utterance: UtteranceT) -> AudioChunk:
        """The utterance's part of the next step. Raises what the engine returns for it."""
        turn = asyncio.get_running_loop().create_future()
        self._turns[id(utterance)] = (utterance, turn)
        self._step_soon()
        chunk: AudioChunk = await turn
        return chunk

    def close(self, utterance: UtteranceT) -> None:
        """Frees the utterance's slot."""
        del self._turns[id(utterance)]
        super().close(utterance)
        self._step_soon()

    def _step_soon(self) -> None:
        # Not at once: the driver that closed an utterance may open its next one before it gives up control.
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._step_if_all_wait)

    def _step_if_all_wait(self) -> None:
        self._scheduled = False
        waiting = [(utterance, turn) for utterance, turn in self._turns.values() if turn is not None]
        if not waiting or len(waiting) < len(self._turns):
            return
        self._turns = {id(utterance): (utterance, None) for utterance, _ in waiting}
        results = advance_or_halve(self._engine.step, [utterance for utterance, _ in waiting])
        for (_, turn), result in zip(waiting, results, strict=True):
            if turn.cancelled():
                continue
            if isinstance(result, Exception):
                turn.set_exception(result)
            else:
                turn.set_result(result)


def speak_here(
    request: SpeechRequest,
    engine: SpeechEngine[UtteranceT],
    text: PieceSource | None = None,
    checks: PieceChecks | None = None,
    loudness_lufs: float | None = None,
) -> Generator[AudioChunk]:
    """The sound of a text by an engine in this process, on this thread, without an event loop. See `speak`."""
    client: SpeechClient = InProcessClient(engine)
    checked = checks.around(client) if checks else client
    return run_here(speak(request, engine.traits, checked, text=text, loudness_lufs=loudness_lufs))


def _value(result: AudioChunk | Exception) -> AudioChunk:
    if isinstance(result, Exception):
        raise result
    return result
