"""Stand-ins for what live sessions share: recognition that counts, and turn detection that takes zeros for silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import Headers

from deployments.engines.protocols import RecognitionOptions, Segment, Token, Transcript
from deployments.engines.streaming import PartialTranscript
from deployments.errors import MotetError, fail
from serve_app.gateway.live.conversation import Conversation, Emit
from serve_app.gateway.live.response_protocol import Responds
from serve_app.gateway.live.responses import Responses
from serve_app.gateway.live.session import Session, SessionParts
from serve_app.gateway.live.sessions import LiveSessions
from serve_app.gateway.live.settings import RealtimeSettings
from serve_app.gateway.live.spoken_answer import SpokenAnswer
from serve_app.gateway.live.turn_rules import SoundSearched, SpeechPaused, SpeechStarted, SpeechStopped, TurnEvent
from serve_app.gateway.live.turn_settings import SemanticVad, ServerVad
from serve_app.gateway.routing.open_limits import SessionLimit
from serve_app.gateway.service import Service

WORD = 8000
"""Samples of a word: half a second."""


class CountingRecognition:
    """Hears " one", " two" ... for each half second of sound. The last word that was heard is tentative."""

    NAMES = ("one", "two", "three", "four", "five", "six", "seven", "eight")

    def __init__(self, options: RecognitionOptions, error: MotetError | None = None, stuck: bool = False) -> None:
        self.options = options
        self.samples: list[NDArray[np.int16]] = []
        self.pauses = 0
        self.closed = False
        self._end: int | None = None
        self._changed = asyncio.Event()
        self._error = error
        self._stuck = stuck

    @property
    def heard(self) -> int:
        return sum(map(len, self.samples))

    def push(self, samples: NDArray[np.int16]) -> None:
        self.samples.append(samples)
        self._changed.set()

    def pause(self) -> None:
        self.pauses += 1

    def finish(self, samples: int) -> None:
        self._end = samples
        self._changed.set()

    @property
    def waiting_samples(self) -> int:
        return self.heard if self._stuck else 0

    def _words(self, samples: int) -> list[str]:
        prefix = "EN " if self.options.translate else ""
        return [f"{prefix}{self.NAMES[n % len(self.NAMES)]}" for n in range(samples // WORD)]

    async def partials(self) -> AsyncGenerator[PartialTranscript]:
        if self._error:
            raise self._error
        while self._end is None or self._stuck:
            await self._changed.wait()
            self._changed.clear()
            if self._end is None and not self._stuck and (words := self._words(self.heard)):
                yield PartialTranscript(" ".join(words[:-1]), words[-1], "en", self.heard)
        text = " ".join(self._words(min(self._end, self.heard)))
        tokens = (Token(" one", -0.1, b" one"),) if self.options.token_probabilities else ()
        transcript = Transcript((Segment(text, 0.0, self._end / 16_000, -0.1, 0.0),), "en", tokens=tokens)
        yield PartialTranscript(text, "", "en", self._end, last=True, transcript=transcript)

    async def close(self) -> None:
        self.closed = True


class ZeroDetection:
    """Speech is what is not zero; half a second of zeros ends a turn, and a tenth is a pause. There is no padding."""

    def __init__(self, settings: ServerVad | SemanticVad) -> None:
        self.settings = settings
        self.closed = False
        self.waiting_samples = 0
        self._events: asyncio.Queue[TurnEvent | MotetError] = asyncio.Queue()
        self._at = 0
        self._silent = 0
        self._speaking = False

    def push(self, samples: NDArray[np.int16]) -> None:
        for at in range(0, len(samples), 160):
            self._frame(samples[at : at + 160])
        self._events.put_nowait(SoundSearched(self._at))

    def _frame(self, frame: NDArray[np.int16]) -> None:
        if frame.any():
            if not self._speaking:
                self._events.put_nowait(SpeechStarted(self._at, self._at))
            self._speaking, self._silent = True, 0
        elif self._speaking:
            self._silent += len(frame)
            if self._silent == 1600:
                self._events.put_nowait(SpeechPaused(self._at + len(frame) - 1600))
            if self._silent >= WORD:
                self._events.put_nowait(SpeechStopped(self._at + len(frame) - self._silent))
                self._speaking = False
        self._at += len(frame)

    def break_down(self) -> None:
        self._events.put_nowait(fail("unavailable", "No audio helper answers."))

    async def events(self) -> AsyncGenerator[TurnEvent]:
        while True:
            event = await self._events.get()
            if isinstance(event, MotetError):
                raise event
            yield event

    async def close(self) -> None:
        self.closed = True


class FakeParts:
    """Keeps everything that sessions open."""

    def __init__(self, most: int = 64, most_admitted: int = 64, **recognition: Any) -> None:
        self.recognitions: list[tuple[str, CountingRecognition]] = []
        self.detections: list[ZeroDetection] = []
        self.admitted: list[str] = []
        self.delays_s: list[float] = []
        self.detects = True
        """Whether turn detection can be opened."""
        self._most_admitted = most_admitted
        self._recognition = recognition
        self._limit = SessionLimit(most, None, "live")

    def parts(self, settings: RealtimeSettings) -> LiveSessions:

        def respond(service: Service, conversation: Conversation, emit: Emit, headers: Headers) -> Responds:
            speak = partial(SpokenAnswer.begin, service, headers, asyncio.get_running_loop().time)
            return Responses(settings, None, conversation, emit, speak)

        parts = SessionParts(self.admit, self.recognize, self.detect, respond)
        return LiveSessions(settings, self._limit, partial(Session, parts))

    @contextmanager
    def admit(self, model: str) -> Iterator[None]:
        if len(self.admitted) >= self._most_admitted:
            raise fail("overloaded", "All sessions would be late.", "Try again later.", code="live_full")
        self.admitted.append(model)
        try:
            yield
        finally:
            self.admitted.remove(model)

    def recognize(self, model: str, options: RecognitionOptions, delay_s: float) -> CountingRecognition:
        self.delays_s.append(delay_s)
        recognition = CountingRecognition(options, **self._recognition)
        self.recognitions.append((model, recognition))
        return recognition

    def detect(self, settings: ServerVad | SemanticVad) -> ZeroDetection:
        if not self.detects:
            raise fail("unsupported", "No model of this service transcribes.")
        self.detections.append(ZeroDetection(settings))
        return self.detections[-1]

    @property
    def all_closed(self) -> bool:
        closed = [each.closed for _, each in self.recognitions] + [each.closed for each in self.detections]
        return all(closed) and not self.admitted
