"""When the user of a live session speaks: the sound goes to an audio helper, and turns come out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from deployments.errors import MotetError
from serve_app.gateway.live.turn_rules import SoundSearched, TurnEvent, TurnRule
from serve_app.gateway.live.turn_settings import SemanticVad, ServerVad
from serve_app.gateway.live.voice_activity_calls import VoiceActivityCalls


class TurnDetection:
    """The turns of one session. It belongs to the event loop's thread.

    Raises `MotetError` when it is opened in a service without audio helpers.
    """

    def __init__(self, voices: VoiceActivityCalls, settings: ServerVad | SemanticVad) -> None:
        self._rule = TurnRule(settings)
        self._voice = voices.open(self._hear)
        self._events: asyncio.Queue[TurnEvent | MotetError | None] = asyncio.Queue()
        self._judging: asyncio.Task[None] | None = None

    def push(self, samples: NDArray[np.int16]) -> None:
        """Takes the next mono (n,) samples at 16 kHz. It never blocks; the caller bounds how much waits."""
        self._voice.push(samples)

    @property
    def waiting_samples(self) -> int:
        """Samples that were pushed and not searched yet."""
        return self._voice.waiting_samples

    async def events(self) -> AsyncGenerator[TurnEvent]:
        """The events in order, until `close`. Raises `MotetError` if speech cannot be found any more."""
        while (event := await self._events.get()) is not None:
            if isinstance(event, MotetError):
                raise event
            yield event

    async def close(self) -> None:
        """Ends the detection. Safe to call twice."""
        self._voice.close()
        if self._judging is not None:
            self._judging.cancel()
        self._events.put_nowait(None)

    def _hear(self, heard: Sequence[float] | MotetError) -> None:
        if isinstance(heard, MotetError):
            self._events.put_nowait(heard)
            return
        self._give(self._rule.push(heard))
        if self._rule.question is not None and self._judging is None:
            self._judging = asyncio.create_task(self._judge())

    async def _judge(self) -> None:
        try:
            while (question := self._rule.question) is not None:
                self._give(self._rule.answer(await self._voice.judge(question.start, question.end)))
        except MotetError as error:
            self._events.put_nowait(error)
        finally:
            self._judging = None

    def _give(self, events: Iterable[TurnEvent]) -> None:
        for event in (*events, SoundSearched(self._rule.searched)):
            self._events.put_nowait(event)
