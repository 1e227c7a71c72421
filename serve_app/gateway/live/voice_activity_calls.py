"""The calls to audio helpers that find speech in live sessions: one in flight to each helper, with the new sound of all
sessions that are there."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.audio.voice_activity import FRAME
from deployments.errors import Failure, MotetError, as_failure, fail
from deployments.replica.live_turns import LiveFrames
from serve_app.gateway.routing.placement import LOST

EVERY_S = 0.032
"""The least time between the starts of two calls to a helper: a frame."""
SLOWEST_S = 0.064
"""The same while calls are slow."""
CALL_SHARE = 0.4
"""The share of the time that calls may take before they are made less often: on a busy machine a call takes over 10 ms, of
which the network needs 0.1 ms."""
MOST_FRAMES = 32
"""Frames of one session in a call (1 s), so that one that sends much at once does not hold up the others."""
SILENT_S = 5.0
"""A helper that does not answer for this long counts as lost."""
RETRY_S = 0.25
"""Time between two calls while helpers are lost."""
JUDGEMENT_S = 2.0
"""The longest wait for a judgement. After it a silence decides."""
FRAME_BYTES = FRAME * 2

Hears = Callable[[Sequence[float] | MotetError], None]
"""Takes the probabilities of the next frames, or why none come any more."""


class VoiceActivityCalls:
    """Speech detection for all live sessions of a gateway. It belongs to the event loop's thread.

    `helpers` are the handles of the audio helpers. `clock` and `sleep` replace asyncio's in tests.
    """

    def __init__(
        self,
        helpers: Sequence[Any],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._lines = [_HelperLine(self, helper, clock, sleep) for helper in helpers]
        self._turns = itertools.cycle(self._lines)

    def open(self, hears: Hears) -> SessionVoice:
        """A session, at the next helper in turn. Raises `MotetError` if the service has no audio helpers."""
        if not self._lines:
            cause = "No model of this service transcribes, so it does not detect turns."
            raise fail("unsupported", cause, "Add a model for transcription to the configuration.")
        return SessionVoice(next(self._turns), hears)

    def after(self, line: _HelperLine) -> _HelperLine:
        """The helper to which sessions move from one that is lost."""
        return self._lines[(self._lines.index(line) + 1) % len(self._lines)]


class SessionVoice:
    """One session's way to an audio helper."""

    def __init__(self, line: _HelperLine, hears: Hears) -> None:
        self.name = uuid.uuid4().hex
        self.hears = hears
        self._line = line
        self._first_frame = 0
        self._sound = bytearray()

    @property
    def has_frames(self) -> bool:
        """Whether a frame is complete."""
        return len(self._sound) >= FRAME_BYTES

    @property
    def waiting_samples(self) -> int:
        """Samples without probabilities."""
        return len(self._sound) // 2

    def push(self, samples: NDArray[np.int16]) -> None:
        """Takes the next mono (n,) samples at 16 kHz."""
        self._sound += samples.astype("<i2", copy=False).tobytes()
        if self.has_frames:
            self._line.add(self)

    def frames(self) -> LiveFrames:
        """The next frames for a call."""
        count = min(len(self._sound) // FRAME_BYTES, MOST_FRAMES)
        return LiveFrames(self.name, self._first_frame, bytes(self._sound[: count * FRAME_BYTES]))

    def take(self, probabilities: Sequence[float]) -> None:
        """Takes the answer to the first of the waiting frames."""
        del self._sound[: len(probabilities) * FRAME_BYTES]
        self._first_frame += len(probabilities)
        self.hears(probabilities)

    def move(self, line: _HelperLine) -> None:
        """Goes on at another helper."""
        self._line = line
        line.add(self)

    async def judge(self, start: int, end: int) -> float | None:
        """The probability that the turn from sample `start` to `end` is over; None if it cannot be judged now. Raises
        `MotetError`."""
        try:
            answer = await asyncio.wait_for(self._line.helper.judge_turn.remote(self.name, start, end), JUDGEMENT_S)
        except (TimeoutError, *LOST):
            return None
        if isinstance(answer, Failure):
            raise MotetError(answer)
        judgement: float | None = answer
        return judgement

    def close(self) -> None:
        """Ends the session at its helper. Safe to call twice."""
        self._sound.clear()
        self._line.drop(self)


class _HelperLine:
    """One helper, and the sessions that have something for it."""

    def __init__(
        self,
        calls: VoiceActivityCalls,
        helper: Any,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.helper = helper
        self._calls = calls
        self._clock = clock
        self._sleep = sleep
        self._voices: dict[str, SessionVoice] = {}
        self._closed: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, voice: SessionVoice) -> None:
        """The session has new frames."""
        self._voices[voice.name] = voice
        self._start()

    def drop(self, voice: SessionVoice) -> None:
        """The session has ended."""
        self._voices.pop(voice.name, None)
        self._closed[voice.name] = None
        self._start()

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._voices or self._closed:
                started_s = self._clock()
                answered = await self._call()
                passed_s = self._clock() - started_s
                every_s = min(max(EVERY_S, passed_s / CALL_SHARE), SLOWEST_S) if answered else RETRY_S
                await self._sleep(max(0.0, every_s - passed_s))
        finally:
            self._task = None

    async def _call(self) -> bool:
        """Sends what is there. False if the helper is lost: its sessions go on at the next one."""
        voices, closed = list(self._voices.values()), list(self._closed)
        self._closed.clear()
        try:
            asked = self.helper.find_speech.remote([voice.frames() for voice in voices], closed)
            answer = await asyncio.wait_for(asked, SILENT_S)
        except (TimeoutError, *LOST):
            self._move(voices)
            return False
        except Exception as error:
            answer = as_failure(error)
        if isinstance(answer, Failure):
            self._end(voices, MotetError(answer))
        else:
            self._give(voices, answer)
        return True

    def _give(self, voices: Sequence[SessionVoice], answer: Sequence[Sequence[float]]) -> None:
        for voice, probabilities in zip(voices, answer, strict=True):
            if voice.name not in self._voices:  # closed meanwhile
                continue
            voice.take(probabilities)
            if not voice.has_frames:
                self._voices.pop(voice.name, None)

    def _end(self, voices: Sequence[SessionVoice], error: MotetError) -> None:
        for voice in voices:
            if self._voices.pop(voice.name, None):
                voice.hears(error)

    def _move(self, voices: Sequence[SessionVoice]) -> None:
        other = self._calls.after(self)
        for voice in voices:
            if self._voices.pop(voice.name, None):
                voice.move(other)
