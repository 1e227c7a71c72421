"""The input buffer of a live session, and the turns into which turn detection or the client divides it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol

from deployments.engines.protocols import RecognitionOptions
from deployments.errors import fail
from serve_app.gateway.live.audio_input import (
    SAMPLE_RATE,
    SAMPLES_PER_MS,
    InputBuffer,
    InputDecoder,
    InputEncoding,
    Int16,
)
from serve_app.gateway.live.conversation import Emit
from serve_app.gateway.live.spoken_turn import SpokenTurn, TurnOptions, TurnRecognition
from serve_app.gateway.live.turn_rules import SoundSearched, SpeechPaused, SpeechStarted, SpeechStopped, TurnEvent
from serve_app.gateway.live.turn_settings import TurnSettings
from serve_app.gateway.request_context import current_key

AHEAD_SAMPLES = SAMPLE_RATE // 5
"""A turn gets sound that is this far ahead of the search for its end: in real time nothing waits for the search. Of sound
that comes all at once it gets no more, so that its text does not contain the next turn."""
SHORTEST_TURN_MS = 100
"""A client that commits less has nothing to commit."""
MOST_UNFINISHED = 32
"""Turns of a session whose text is not complete."""
USUAL_RATE = 24_000
SLOWER = "Send sound as fast as it is spoken."

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]
"""Starts a task that ends with the session."""


class DetectsTurns(Protocol):
    """Finds turns in the sound of one session: see `TurnDetection`."""

    def push(self, samples: Int16) -> None:
        """Adds mono samples at 16 kHz."""

    def events(self) -> AsyncGenerator[TurnEvent]:
        """What is found, with positions in samples since the first one pushed. Raises `MotetError`."""

    @property
    def waiting_samples(self) -> int:
        """Samples that were pushed and not searched yet."""

    async def close(self) -> None:
        """Frees what the detection holds. Safe to call twice."""


class TurnOwner(Protocol):
    """What happens with turns: see `Session`."""

    def speech_started(self) -> None:
        """The client began to speak."""

    def turn_committed(self, item_id: str, *, detected: bool) -> None:
        """A turn is complete; its text may follow. `detected`: by turn detection rather than by the client."""

    def turn_heard(self, item_id: str, transcript: str | None, english: str | None) -> None:
        """The text of a turn is complete. None: the model failed."""


Recognize = Callable[[str, RecognitionOptions, float], TurnRecognition]
"""Opens the recognition of one turn by a model, and says how many seconds of new sound a hearing waits for, at least. Raises
`MotetError`."""
Detect = Callable[[TurnSettings], DetectsTurns]
"""Opens turn detection for one session. Raises `MotetError`."""


class InputTurns:
    """Takes sound, finds turns in it, and has them recognized. Positions are samples at 16 kHz since the session began.

    At most `most_s` seconds of sound wait.
    """

    def __init__(
        self, recognize: Recognize, detect: Detect, most_s: float, emit: Emit, owner: TurnOwner, spawn: Spawn
    ) -> None:
        self._recognize = recognize
        self._detect = detect
        self._most = int(most_s * SAMPLE_RATE)
        self._emit = emit
        self._owner = owner
        self._spawn = spawn
        self._decoder = InputDecoder("audio/pcm", USUAL_RATE)
        self._encoding: tuple[str, int] = ("audio/pcm", USUAL_RATE)
        self._buffer = InputBuffer(self._most)
        self._hearing: TurnOptions | None = None
        self._settings: TurnSettings | None = None
        self._detection: DetectsTurns | None = None
        self._offset = 0
        """The position at which the detection began."""
        self._searched = 0
        """The position up to which the detection knows the turns."""
        self._given = 0
        """The position up to which the turn has its sound."""
        self._watchers: dict[DetectsTurns, asyncio.Task[None]] = {}
        self._turn: SpokenTurn | None = None
        self._unfinished: dict[SpokenTurn, asyncio.Task[None]] = {}
        self._began = asyncio.get_running_loop().time()

    @property
    def seconds(self) -> float:
        """Sound that came so far."""
        return self._buffer.end / SAMPLE_RATE

    @property
    def speaking(self) -> bool:
        """Whether a turn has begun and is not complete."""
        return self._turn is not None

    def configure(
        self, encoding: InputEncoding, rate: int | None, settings: TurnSettings | None, hearing: TurnOptions
    ) -> None:
        """Follows the session's settings. `rate` is that of PCM in Hz. A turn that has begun keeps its model. Raises
        `MotetError`, with everything as before, if turns cannot be detected."""
        wanted = (encoding, rate or USUAL_RATE)
        if wanted != self._encoding:
            self._take(self._decoder.flush())
        detection = self._detect(settings) if settings is not None and settings != self._settings else None
        if wanted != self._encoding:
            self._decoder, self._encoding = InputDecoder(*wanted), wanted
        self._hearing = hearing
        if settings != self._settings:
            self._settings = settings
            self._detect_anew(detection)

    def append(self, data: bytes) -> None:
        """Adds sound in the client's encoding. Raises `MotetError`: too_large if too much waits, or if it comes much faster
        than real time; overloaded if the quota of the client's key is used up."""
        current_key().ensure_audio()
        samples = self._decoder.push(data)
        current_key().take_audio(len(samples) / SAMPLE_RATE)
        self._take(samples)
        waiting = sum(turn.waiting_samples for turn in self._unfinished)
        unsearched = self._detection.waiting_samples if self._detection else 0
        early = self._buffer.end - int((asyncio.get_running_loop().time() - self._began) * SAMPLE_RATE)
        if max(waiting, unsearched, early) > self._most:
            cause = f"Over {self._most / SAMPLE_RATE:.0f} s of sound wait to be heard."
            raise fail("too_large", cause, SLOWER, code="input_audio_buffer_full")

    def commit(self) -> None:
        """The client ends a turn. Raises `MotetError`: invalid if the buffer is empty, too_large if too many turns wait."""
        self._take(self._decoder.flush())
        start = self._turn.start if self._turn else self._buffer.start
        milliseconds = (self._buffer.end - start) / SAMPLES_PER_MS
        if milliseconds < SHORTEST_TURN_MS:
            cause = (
                f"The input buffer has {milliseconds:.0f} ms of sound, and a turn has at least {SHORTEST_TURN_MS} ms."
            )
            raise fail("invalid", cause, "Append sound first.", code="input_audio_buffer_commit_empty")
        turn = self._turn or self._begin(start)
        self._complete(turn, self._buffer.end, detected=False)
        self._detect_anew()

    def commit_silence(self, seconds: float) -> None:
        """The user says nothing: the sound of the last `seconds` becomes a turn, which the model hears like others. Raises
        `MotetError` (too_large) if too many turns wait."""
        end = self._buffer.end
        turn = self._begin(max(self._buffer.start, end - int(seconds * SAMPLE_RATE)))
        times = {"audio_start_ms": turn.start // SAMPLES_PER_MS, "audio_end_ms": end // SAMPLES_PER_MS}
        self._emit({"type": "input_audio_buffer.timeout_triggered", "item_id": turn.id, **times})
        self._complete(turn, end, detected=False)

    def clear(self) -> None:
        """The client takes back what it sent since the last turn."""
        self._decoder.flush()
        self._abandon()
        self._buffer.drop_before(self._buffer.end)
        self._detect_anew()
        self._emit({"type": "input_audio_buffer.cleared"})

    async def close(self) -> None:
        """Frees what the session holds. Its tasks have ended."""
        for turn in self._unfinished:
            await turn.close()
        for detection in self._watchers:
            await detection.close()

    def _take(self, samples: Int16) -> None:
        self._buffer.push(samples)
        if self._turn is not None:
            self._give()
        elif self._settings is None and len(samples):
            self._begin(self._buffer.start)
        if self._detection is not None:
            self._detection.push(samples)

    def _give(self, until: int | None = None) -> None:
        """Gives the turn its new sound, up to a position or as far as the search for its end allows."""
        if until is None:
            until = self._buffer.end if self._detection is None else self._searched + AHEAD_SAMPLES
        until = min(until, self._buffer.end)
        if self._turn is not None and until > self._given:
            self._turn.push(self._buffer.between(self._given, until))
            self._given = until

    def _begin(self, start: int) -> SpokenTurn:
        """A turn with the sound from `start` on."""
        if len(self._unfinished) >= MOST_UNFINISHED:
            cause = f"{MOST_UNFINISHED} turns wait to be heard."
            raise fail("too_large", cause, SLOWER, code="too_many_turns")
        hearing = self._hearing
        assert hearing is not None, "configured"
        recognition = translation = None
        if hearing.model is not None:
            recognition = self._recognize(hearing.model, hearing.options, hearing.delay_s)
            if hearing.translated:
                english = replace(hearing.options, translate=True)
                translation = self._recognize(hearing.model, english, hearing.delay_s)
        turn = SpokenTurn(start, hearing, recognition, translation, self._emit)
        self._turn, self._given = turn, start
        self._give()
        self._unfinished[turn] = self._spawn(self._hear(turn))
        return turn

    async def _hear(self, turn: SpokenTurn) -> None:
        await turn.run(lambda transcript, english: self._owner.turn_heard(turn.id, transcript, english))
        self._unfinished.pop(turn, None)

    def _complete(self, turn: SpokenTurn, end: int, *, detected: bool) -> None:
        self._give(end)
        self._turn = None
        self._buffer.drop_before(end)
        self._owner.turn_committed(turn.id, detected=detected)
        turn.finish(end)

    def _abandon(self) -> None:
        """Stops hearing the turn that has begun."""
        if self._turn is not None:
            self._spawn(self._stop_hearing(self._turn))
            self._turn = None

    async def _stop_hearing(self, turn: SpokenTurn) -> None:
        await _cancelled(self._unfinished[turn])
        await turn.close()
        self._unfinished.pop(turn, None)

    def _detect_anew(self, detection: DetectsTurns | None = None) -> None:
        """Looks for turns in the sound that no turn has taken, and in what follows, with this detection or another new
        one."""
        if self._detection is not None:
            self._spawn(self._stop_detecting(self._detection))
            self._detection = None
        if self._settings is None:
            return
        if self._turn is not None:
            self._abandon()
        self._offset = self._searched = self._buffer.start
        self._detection = detection or self._detect(self._settings)
        self._detection.push(self._buffer.since(self._offset))
        self._watchers[self._detection] = self._spawn(self._watch(self._detection))

    async def _watch(self, detection: DetectsTurns) -> None:
        async with aclosing(detection.events()) as events:
            async for event in events:
                if detection is self._detection:
                    self._follow(event)

    async def _stop_detecting(self, detection: DetectsTurns) -> None:
        await _cancelled(self._watchers[detection])
        await detection.close()
        self._watchers.pop(detection, None)

    def _follow(self, event: TurnEvent) -> None:
        match event:
            case SpeechStarted(start=start):
                self._speech_started(max(start + self._offset, self._buffer.start))
            case SpeechPaused() if self._turn is not None:
                self._turn.pause()
            case SpeechStopped(at=at) if self._turn is not None:
                self._speech_stopped(self._turn, max(at + self._offset, self._turn.start + 1))
            case SoundSearched(at=at):
                self._searched = at + self._offset
                self._give()

    def _speech_started(self, start: int) -> None:
        turn = self._begin(start)
        self._buffer.drop_before(start)
        fields = {"audio_start_ms": start // SAMPLES_PER_MS, "item_id": turn.id}
        self._emit({"type": "input_audio_buffer.speech_started", **fields})
        self._owner.speech_started()

    def _speech_stopped(self, turn: SpokenTurn, end: int) -> None:
        fields = {"audio_end_ms": end // SAMPLES_PER_MS, "item_id": turn.id}
        self._emit({"type": "input_audio_buffer.speech_stopped", **fields})
        self._complete(turn, end, detected=True)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
