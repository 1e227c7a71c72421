"""Finds the speech in a stream of samples, with the network Silero VAD, which faster-whisper ships as an ONNX file.

The rule that makes sections of probabilities is that of Silero's `get_speech_timestamps`, computed as the sound arrives: with
equal settings the sections equal those of `faster_whisper.vad.get_speech_timestamps` over the whole recording.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deployments.audio.resample import Resampler
from deployments.engines.protocols import Samples
from deployments.errors import fail
from deployments.settings import VoiceActivitySettings

NETWORK_RATE = 16_000
"""The sample rate that the network is trained for, in Hz."""
FRAME = 512
"""Samples of one probability."""
CONTEXT = 64
"""Samples of the previous frame that the network also sees."""
STATE = (1, 1, 128)
MOST_FRAMES = 4096
"""Frames of one run, which bounds its memory."""
HYSTERESIS = 0.15
"""Speech ends where the probability is this much below the threshold at which it begins (Silero's default)."""
LOWEST_THRESHOLD = 0.01
QUIETEST_SPEECH = 3e-4
"""Peak of a frame, as a share of full scale. The network detected speech at a peak of 0.003, and none at 0.001."""
SETTLING_FRAMES = 64
"""After this many frames below `QUIETEST_SPEECH` (2 s), the network has settled on silence. Later quiet frames skip it."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SpeechPart:
    """The next stretch of a section of speech, in samples from the start of the stream.

    The parts of a section follow each other without a gap; `ends` marks its last. `start` and `end` include the padding
    before and after a section, `speech_start` and `speech_end` do not.
    """

    start: int
    end: int
    speech_start: int
    speech_end: int
    ends: bool


class SpeechDetector(Protocol):
    """Finds the sections of speech of one mono stream, as it comes."""

    @property
    def settled(self) -> int:
        """All speech before this sample has been returned."""

    def push(self, samples: Samples) -> list[SpeechPart]:
        """Takes the next (n,) samples."""

    def finish(self) -> list[SpeechPart]:
        """Ends the stream, and returns the rest."""


def speech_detector(sample_rate: int, settings: VoiceActivitySettings) -> SpeechDetector:
    """The detector for a stream at `sample_rate` Hz."""
    return VoiceActivity(sample_rate, settings) if settings.enabled else AllSound()


class AllSound:
    """Takes all sound for one section of speech."""

    def __init__(self) -> None:
        self.settled = 0

    def push(self, samples: Samples) -> list[SpeechPart]:
        """See `SpeechDetector`."""
        start, self.settled = self.settled, self.settled + len(samples)
        return [SpeechPart(start, self.settled, start, self.settled, ends=False)] if len(samples) else []

    def finish(self) -> list[SpeechPart]:
        """See `SpeechDetector`."""
        end = self.settled
        return [SpeechPart(end, end, end, end, ends=True)] if end else []


class VoiceActivity:
    """The sections of speech of one mono stream at `sample_rate` Hz.

    What is known is returned at once. A section that is over is known `min_silence_ms` later, and its padded end at most
    `min_speech_ms` and twice `pad_ms` after that.
    """

    def __init__(self, sample_rate: int, settings: VoiceActivitySettings) -> None:
        self._rate = sample_rate
        self._resampler = Resampler(sample_rate, NETWORK_RATE)
        self._probabilities = SpeechProbabilities()
        self._sections = SpeechSections(settings)
        self._pushed = 0

    @property
    def settled(self) -> int:
        """All speech before this sample has been returned."""
        return self._in_stream(self._sections.settled)

    def push(self, samples: Samples) -> list[SpeechPart]:
        """Takes the next mono (n,) samples."""
        self._pushed += len(samples)
        parts = self._sections.push(self._probabilities.push(self._resampler.push(samples)))
        return [self._scaled(part) for part in parts]

    def finish(self) -> list[SpeechPart]:
        """Ends the stream, and returns the rest."""
        parts = self._sections.push(self._probabilities.push(self._resampler.finish()))
        parts += self._sections.finish(self._probabilities.finish(), self._probabilities.pushed)
        return [self._scaled(part) for part in parts]

    def _scaled(self, part: SpeechPart) -> SpeechPart:
        return SpeechPart(
            self._in_stream(part.start),
            self._in_stream(part.end),
            self._in_stream(part.speech_start),
            self._in_stream(part.speech_end),
            part.ends,
        )

    def _in_stream(self, at: int) -> int:
        return min(at * self._rate // NETWORK_RATE, self._pushed)


class SpeechProbabilities:
    """The probability of speech in each frame of a stream at 16 kHz."""

    def __init__(self) -> None:
        self._network = _network()
        self._state = (np.zeros(STATE, np.float32), np.zeros(STATE, np.float32))
        self._context = np.zeros(CONTEXT, np.float32)
        self._rest = np.zeros(0, np.float32)
        self._quiet_frames = 0
        self.pushed = 0
        """Samples so far."""

    def push(self, samples: Samples) -> Floats:
        """Takes the next (n,) samples. Returns the probabilities of the frames that are complete."""
        self.pushed += len(samples)
        held = np.concatenate([self._rest, samples])
        whole = len(held) - len(held) % FRAME
        self._rest = held[whole:]
        frames = held[:whole].reshape(-1, FRAME)
        runs = [self._of(frames[at : at + MOST_FRAMES]) for at in range(0, len(frames), MOST_FRAMES)]
        return np.concatenate(runs) if runs else np.zeros(0, np.float32)

    def finish(self) -> Floats:
        """The probability of the last frame, filled up with zeros. As in Silero's function, there always is one."""
        return self._of(np.pad(self._rest, (0, FRAME - len(self._rest)))[np.newaxis])

    def _of(self, frames: Floats) -> Floats:
        asked = self._worth_asking(frames)
        before = np.concatenate([self._context[np.newaxis], frames[:-1, -CONTEXT:]])
        self._context = frames[-1, -CONTEXT:].copy()
        probabilities = np.zeros(len(frames), np.float32)
        if asked.any():
            rows = np.concatenate([before, frames], axis=1)[asked]
            found, *state = self._network.run(None, {"input": rows, "h": self._state[0], "c": self._state[1]})
            probabilities[asked], self._state = found.reshape(-1), (state[0], state[1])
        return probabilities

    def _worth_asking(self, frames: Floats) -> NDArray[np.bool_]:
        """Which frames are not in the midst of near silence."""
        asked = np.ones(len(frames), np.bool_)
        for at, quiet in enumerate(np.abs(frames).max(axis=1) < QUIETEST_SPEECH):
            self._quiet_frames = self._quiet_frames + 1 if quiet else 0
            asked[at] = self._quiet_frames <= SETTLING_FRAMES
        return asked


def has_speech(samples: Samples, after: int = 0) -> bool:
    """Whether mono (n,) samples at 16 kHz contain speech from sample `after` on, at the default threshold. The network hears
    the samples before as context. Silence skips the network."""
    if not is_audible(samples[after:]):
        return False
    probabilities = SpeechProbabilities()
    found = np.concatenate([probabilities.push(samples), probabilities.finish()])
    return bool(found[after // FRAME :].max() >= VoiceActivitySettings().threshold)


def is_audible(samples: Samples) -> bool:
    """Whether the samples are louder than near silence."""
    return bool(len(samples)) and max(samples.max(), -samples.min()) >= QUIETEST_SPEECH


class SpeechSections:
    """Makes padded sections of the probabilities of frames. Positions are in samples at 16 kHz."""

    def __init__(self, settings: VoiceActivitySettings) -> None:
        self._begin_at = settings.threshold
        self._end_below = max(settings.threshold - HYSTERESIS, LOWEST_THRESHOLD)
        self._least_speech = settings.min_speech_ms * NETWORK_RATE / 1000
        self._least_silence = settings.min_silence_ms * NETWORK_RATE / 1000
        self._pad = int(settings.pad_ms * NETWORK_RATE / 1000)
        self._now = 0
        self._length: int | None = None
        """The stream's length, once it has ended."""
        self._start: int | None = None
        """Where the speech begins that may become a section."""
        self._pause: int | None = None
        """Where the pause in it begins, which may be its end."""
        self._is_section = False
        """Whether that speech is long enough."""
        self._speech_from = 0
        """Where the newest section begins, without its padding."""
        self._ended: int | None = None
        """Where it has ended, while it is not known how much padding it has room for."""
        self._given = 0
        """All before is returned, or silence."""
        self._parts: list[SpeechPart] = []

    @property
    def settled(self) -> int:
        """All sections before this position have been returned."""
        if self._is_section or self._ended is not None:
            return self._given
        return max(self._given, (self._now if self._start is None else self._start) - self._pad)

    def push(self, probabilities: Floats) -> list[SpeechPart]:
        """Takes the probabilities of the next frames."""
        for probability in probabilities.tolist():
            self._step(probability)
            self._now += FRAME
        if self._is_section:
            until = self._now if self._pause is None else self._pause
            if until > self._given and self._length is None:
                self._add_part(until, until, ends=False)
        parts, self._parts = self._parts, []
        return parts

    def finish(self, last: Floats, length: int) -> list[SpeechPart]:
        """Takes the probability of the last frame, which may reach beyond the stream's `length`."""
        self._length = length
        parts = self.push(last)
        if self._start is not None and length - self._start > self._least_speech:
            self._accept(self._start)
            self._ended = length
        if self._ended is not None:
            self._add_part(min(length, self._ended + self._pad), self._ended, ends=True)
        return parts + self._parts

    def _step(self, probability: float) -> None:
        if self._start is None:
            if self._ended is not None and self._now >= self._ended + 2 * self._pad:
                self._add_part(self._ended + self._pad, self._ended, ends=True)
            if probability >= self._begin_at:
                self._start = self._now
        elif probability >= self._begin_at:
            self._pause = None
        elif probability < self._end_below:
            self._add_silence()
        self._accept_if_long()

    def _accept_if_long(self) -> None:
        """Speech in a frame makes the section at least that long, wherever it will end."""
        if self._start is None or self._pause is not None:
            return
        until = self._now + FRAME if self._length is None else min(self._now + FRAME, self._length)
        if until - self._start > self._least_speech:
            self._accept(self._start)

    def _add_silence(self) -> None:
        if self._pause is None:
            self._pause = self._now
        if self._now - self._pause >= self._least_silence:
            if self._is_section:
                self._ended = self._pause
            self._start, self._pause, self._is_section = None, None, False

    def _accept(self, start: int) -> None:
        """The speech from `start` on is a section. It shares a short silence with the section before."""
        if self._is_section:
            return
        pad = self._pad
        if self._ended is not None:
            pad = min(pad, (start - self._ended) // 2)
            self._add_part(self._ended + pad, self._ended, ends=True)
        self._is_section, self._speech_from, self._given = True, start, max(0, start - pad)

    def _add_part(self, until: int, speech_until: int, *, ends: bool) -> None:
        speech_from = min(max(self._given, self._speech_from), speech_until)
        self._parts.append(SpeechPart(self._given, until, speech_from, speech_until, ends))
        self._given = until
        if ends:
            self._ended = None


@lru_cache
def _network() -> Any:
    """The network, once for the process. A run is short, so it has one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(_network_file()), options, providers=["CPUExecutionProvider"])


def _network_file() -> Path:
    # Found without an import of the package, which would load CTranslate2.
    package = find_spec("faster_whisper")
    for folder in (package.submodule_search_locations or ()) if package else ():
        if (path := Path(folder) / "assets" / "silero_vad_v6.onnx").is_file():
            return path
    raise fail("unavailable", "The voice activity network is not installed.", "Run: pip install faster-whisper.")
