"""What Whisper engines of every library share: the grouping of windows, silence detection, and the transcription of what the
model left out at the end of a window."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from faster_whisper.vad import get_speech_timestamps

from deployments.engines.protocols import RecognitionOptions, RecognitionTraits, Samples, Transcript, Window
from deployments.errors import fail

LEAST_REST_SECONDS = 1.0
"""The rest of a window after its last segment is transcribed again if it is at least this long and has speech."""
# OpenAI's rule for a segment that is not speech: openai/whisper, transcribe.py.
NO_SPEECH_PROBABILITY = 0.6
LOG_PROBABILITY = -1.0
QUIETEST_SPEECH = 3e-4
"""Peak of a window, as a share of full scale. The voice activity network (Silero) detected speech at a peak of 0.003, and
none at 0.001."""
SAMPLE_RATE = 16_000
"""The sample rate of Whisper and of the voice activity network, in Hz."""


class WindowedRecognition(ABC):
    """Transcribes windows with equal options as one batch. An invalid window fails alone; a window without speech gives an
    empty transcript."""

    @property
    @abstractmethod
    def traits(self) -> RecognitionTraits:
        """The model's abilities."""

    @abstractmethod
    def recognize(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript]:
        """One transcript for each window, computed as one batch. All windows are valid, contain speech, and have these
        `options`."""

    def transcribe(self, windows: Sequence[Window]) -> list[Transcript | Exception]:
        """One transcript for each window; windows with equal options are one batch."""
        results: dict[int, Transcript | Exception] = {}
        groups: dict[RecognitionOptions, list[int]] = defaultdict(list)
        for position, window in enumerate(windows):
            try:
                self._check(window)
                if has_speech(window.samples):
                    groups[window.options].append(position)
                else:
                    results[position] = Transcript((), window.options.language or "en")
            except Exception as error:
                results[position] = error
        for options, positions in groups.items():
            results.update(zip(positions, self._group([windows[p] for p in positions], options), strict=True))
        return [results[position] for position in range(len(windows))]

    def _check(self, window: Window) -> None:
        samples, traits = window.samples, self.traits
        longest = traits.max_window_seconds
        if samples.ndim != 1 or len(samples) > (longest + 0.01) * traits.sample_rate:
            raise fail(
                "invalid", f"A window has shape {samples.shape}.", f"Send mono samples of at most {longest:.0f} s."
            )
        if not np.isfinite(samples).all():
            raise fail(
                "invalid", "The recording has samples that are not finite numbers.", "Export it again.", param="file"
            )
        language = window.options.language
        if language is not None and traits.languages and language not in traits.languages:
            known = ", ".join(traits.languages[:12])
            raise fail(
                "unsupported",
                f"This model does not transcribe language {language!r}.",
                f"Its languages: {known}.",
                param="language",
            )
        if window.options.translate and not traits.translates:
            raise fail(
                "unsupported", "This model transcribes English only and cannot translate.", "Use a multilingual model."
            )

    def _group(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript | Exception]:
        try:
            return self._transcribe_to_the_end(windows, options)
        except Exception as error:
            if len(windows) == 1:
                return [error]
            return [self._group([window], options)[0] for window in windows]

    def _transcribe_to_the_end(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript]:
        """Whisper may stop before the window ends; the rest is then transcribed like a window of its own.

        Without timestamp tokens the model would not stop, but on repetitive speech it then leaves out more.
        """
        transcripts = list(self.recognize(windows, options))
        rests = [rest(window, transcript) for window, transcript in zip(windows, transcripts, strict=True)]
        again = [(at, left) for at, left in enumerate(rests) if left is not None]
        more = self._transcribe_to_the_end([left for _, left in again], options) if again else ()
        for (at, left), left_transcript in zip(again, more, strict=True):
            before = (len(windows[at].samples) - len(left.samples)) / SAMPLE_RATE
            later = tuple(segment.moved(before) for segment in left_transcript.segments)
            transcripts[at] = replace(transcripts[at], segments=transcripts[at].segments + later)
        return transcripts


def rest(window: Window, transcript: Transcript) -> Window | None:
    """The window after the last segment, if it is long enough and contains speech."""
    if not transcript.segments:
        return None
    end = max(transcript.segments[-1].end, LEAST_REST_SECONDS)
    start = round(end * SAMPLE_RATE)
    samples = window.samples[start:]
    if len(samples) < LEAST_REST_SECONDS * SAMPLE_RATE or not has_speech(samples):
        return None
    return Window(samples, window.options)


def has_speech(samples: Samples) -> bool:
    """Whether mono samples at 16 kHz contain speech. Near silence is not sent to the voice activity network."""
    if not len(samples) or max(samples.max(), -samples.min()) < QUIETEST_SPEECH:
        return False
    return bool(get_speech_timestamps(samples))


def is_noise(no_speech_probability: float, average_log_probability: float) -> bool:
    """Whether the model itself rates its text as no speech."""
    return bool(no_speech_probability > NO_SPEECH_PROBABILITY and average_log_probability < LOG_PROBABILITY)
