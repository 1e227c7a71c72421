"""What Whisper engines of every library share: who is heard with whom, and what is done about silence and missing ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from faster_whisper.vad import get_speech_timestamps

from deployments.engines.protocols import RecognitionOptions, RecognitionTraits, Samples, Transcript, Window
from deployments.errors import fail

LEAST_REST_SECONDS = 1.0
"""What is left of a window after its last segment is heard again when it is at least this long and has speech."""
# OpenAI's rule for a segment that is not speech: openai/whisper, transcribe.py.
NO_SPEECH_PROBABILITY = 0.6
LOG_PROBABILITY = -1.0
QUIETEST_SPEECH = 3e-4
"""Peak of a window, of full scale. The network (Silero) heard speech at a peak of 0.003, and nothing any more at 0.001."""
SAMPLE_RATE = 16_000
"""At which every Whisper hears, and at which speech is told from silence."""


class WindowedRecognition(ABC):
    """Windows with equal options are recognized together; a bad one fails alone; one without speech says nothing."""

    @property
    @abstractmethod
    def traits(self) -> RecognitionTraits:
        """What this model can do."""

    @abstractmethod
    def recognize(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript]:
        """One transcript for each window, as one batch. The windows are sound, have speech, and ask for `options`."""

    def transcribe(self, windows: Sequence[Window]) -> list[Transcript | Exception]:
        """Windows with equal options go through the network together."""
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
            raise fail("invalid", f"A window is mono and at most {longest:.0f} s long.", "Cut it first.")
        if not np.isfinite(samples).all():
            raise fail("invalid", "The recording holds values that are not numbers.", "Export it again.", param="file")
        language = window.options.language
        if language is not None and traits.languages and language not in traits.languages:
            known = ", ".join(traits.languages[:12])
            raise fail(
                "unsupported", f"This model does not know {language!r}.", f"It knows: {known}.", param="language"
            )
        if window.options.translate and not traits.translates:
            raise fail(
                "unsupported", "This model hears English only and cannot translate.", "Use a multilingual model."
            )

    def _group(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript | Exception]:
        try:
            return self._heard_to_the_end(windows, options)
        except Exception as error:
            if len(windows) == 1:
                return [error]
            return [self._group([window], options)[0] for window in windows]

    def _heard_to_the_end(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript]:
        """The model may stop before the window does; then the rest is heard like a window of its own.

        Without its times the model would not stop, but repetitive speech makes it leave out more than that.
        """
        transcripts = list(self.recognize(windows, options))
        rests = [rest(window, transcript) for window, transcript in zip(windows, transcripts, strict=True)]
        again = [(at, left) for at, left in enumerate(rests) if left is not None]
        more = self._heard_to_the_end([left for _, left in again], options) if again else ()
        for (at, _), left_transcript in zip(again, more, strict=True):
            segments = transcripts[at].segments + left_transcript.segments
            transcripts[at] = Transcript(segments, transcripts[at].language)
        return transcripts


def rest(window: Window, transcript: Transcript) -> Window | None:
    """What follows the last segment, if it is worth hearing."""
    if not transcript.segments:
        return None
    end = max(transcript.segments[-1].end - window.start, LEAST_REST_SECONDS)
    start = round(end * SAMPLE_RATE)
    samples = window.samples[start:]
    if len(samples) < LEAST_REST_SECONDS * SAMPLE_RATE or not has_speech(samples):
        return None
    return Window(samples, window.start + start / SAMPLE_RATE, window.options)


def has_speech(samples: Samples) -> bool:
    """Whether there is a voice in mono samples at 16 kHz. Silence is not sent through the network that tells."""
    if not len(samples) or max(samples.max(), -samples.min()) < QUIETEST_SPEECH:
        return False
    return bool(get_speech_timestamps(samples))


def is_noise(no_speech_probability: float, average_log_probability: float) -> bool:
    """Whether the model itself takes what it wrote for no speech."""
    return bool(no_speech_probability > NO_SPEECH_PROBABILITY and average_log_probability < LOG_PROBABILITY)
