"""The rule that makes turns of probabilities of speech. It knows no time but the positions of samples, so it gives the same
events for the same sound, however the sound arrives.

Thresholds and pauses follow Silero's `get_speech_timestamps`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from deployments.audio.voice_activity import FRAME, HYSTERESIS, LOWEST_THRESHOLD, NETWORK_RATE
from serve_app.gateway.live.turn_settings import LONGEST_PAUSE_MS, SemanticVad, ServerVad

SPEECH_FRAMES = 2
"""Frames of speech that start a turn: 64 ms. A shorter sound, such as a click, starts none."""
SURE = 0.1
"""A frame whose probability is this much above the threshold starts a turn by itself, so that a voice stops 20 ms sooner when
the user interrupts it. None of 180 sounds without speech (noise of five colours, hum, clicks, breath, music, bursts) has such
a frame with the usual threshold; one has two frames above the threshold."""
PAUSE_FRAMES = 4
"""Frames of silence that are reported as a pause: 128 ms."""
JUDGED_FRAMES = 6
"""Frames of silence after which a turn is judged: 192 ms. The network was trained with about 200 ms."""
OVER = 0.5
"""The probability from which on a turn is over. Of 20 whole sentences of hibari's voice, with faint noise, all had more, the
lowest tenth 0.97; of 20 whose text breaks off, 14, because that voice ends each text like a sentence. After 1 s of silence
17 of these had more, so a turn is not judged again later."""


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """A turn starts. Positions are samples at 16 kHz."""

    at: int
    """Where speech begins."""
    start: int
    """The same with the sound before it that belongs to the turn."""


@dataclass(frozen=True, slots=True)
class SpeechPaused:
    """The speaker is silent. The turn may go on."""

    at: int
    """Where the silence began."""


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The turn is over."""

    at: int
    """Where speech ended."""


@dataclass(frozen=True, slots=True)
class SoundSearched:
    """All events of the sound before a position are known."""

    at: int


TurnEvent = SpeechStarted | SpeechPaused | SpeechStopped | SoundSearched


@dataclass(frozen=True, slots=True)
class TurnToJudge:
    """A turn that may be over: the sound from `start` to `end`, in samples at 16 kHz."""

    start: int
    end: int


class TurnRule:
    """The turns of one session. After a question it takes frames, and decides about them when it has the answer."""

    def __init__(self, settings: ServerVad | SemanticVad) -> None:
        vad = settings if isinstance(settings, ServerVad) else ServerVad()
        self._begin_at = vad.threshold
        self._end_below = max(vad.threshold - HYSTERESIS, LOWEST_THRESHOLD)
        self._prefix = _samples(vad.prefix_padding_ms)
        self._silence = _samples(vad.silence_duration_ms)
        self._longest: int | None = None
        """Silence that ends a turn that sounds unfinished. None: turns are not judged."""
        if isinstance(settings, SemanticVad):
            self._longest = _samples(LONGEST_PAUSE_MS[settings.eagerness])
        self._frames: deque[float] = deque()
        self._now = 0
        self._ended = 0
        self._speech: int | None = None
        """Where the speech begins that is a turn, or may become one."""
        self._speech_frames = 0
        self._start: int | None = None
        """Where the turn begins; None between turns."""
        self._pause: int | None = None
        """Where its silence began."""
        self._patience: int | None = None
        """Silence that ends the turn, once it is judged."""
        self._events: list[TurnEvent] = []
        self.question: TurnToJudge | None = None
        """What must be answered before anything else is decided."""

    @property
    def searched(self) -> int:
        """The position up to which everything is decided, in samples at 16 kHz."""
        return self._now

    def push(self, probabilities: Iterable[float]) -> list[TurnEvent]:
        """Takes the probabilities of the next frames."""
        self._frames.extend(probabilities)
        while self._frames and self.question is None:
            self._step(self._frames.popleft())
        events, self._events = self._events, []
        return events

    def answer(self, probability: float | None) -> list[TurnEvent]:
        """Takes the probability that the turn of the question is over. None if it is not known: then a silence decides, as
        with `server_vad`."""
        self.question = None
        if probability is None:
            self._patience = self._silence
        elif probability < OVER:
            self._patience = self._longest
        else:
            self._patience = 0
        self._stop_if_over()
        return self.push(())

    def _step(self, probability: float) -> None:
        start, self._now = self._now, self._now + FRAME
        if self._start is None:
            self._look_for_speech(probability, start)
        elif probability >= self._begin_at:
            self._pause = None
        else:
            self._go_on_in_silence(probability, start)

    def _look_for_speech(self, probability: float, at: int) -> None:
        if probability < self._end_below:
            self._speech, self._speech_frames = None, 0
        if probability < self._begin_at:
            return
        self._speech = at if self._speech is None else self._speech
        self._speech_frames += SPEECH_FRAMES if probability >= self._begin_at + SURE else 1
        if self._speech_frames >= SPEECH_FRAMES:
            self._start, self._pause = max(self._ended, self._speech - self._prefix), None
            self._events.append(SpeechStarted(self._speech, self._start))

    def _go_on_in_silence(self, probability: float, at: int) -> None:
        if self._pause is None:
            if probability >= self._end_below:
                return
            self._pause = at
            self._patience = None if self._longest else self._silence
        if self._now - self._pause == PAUSE_FRAMES * FRAME:
            self._events.append(SpeechPaused(self._pause))
        if self._patience is None and self._now - self._pause >= JUDGED_FRAMES * FRAME:
            self.question = TurnToJudge(self._start or 0, self._now)
        self._stop_if_over()

    def _stop_if_over(self) -> None:
        if self._pause is None or self._patience is None or self._now - self._pause < self._patience:
            return
        self._events.append(SpeechStopped(self._pause))
        self._ended = self._pause
        self._start = self._speech = self._pause = None
        self._speech_frames = 0


def _samples(ms: float) -> int:
    return int(ms * NETWORK_RATE / 1000)
