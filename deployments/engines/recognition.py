"""What recognition engines of every library share: windows with equal options are one batch, and a window that fails does so
alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from faster_whisper.vad import get_speech_timestamps

from deployments.engines.protocols import RecognitionOptions, RecognitionTraits, Samples, Transcript, Window
from deployments.errors import fail

QUIETEST_SPEECH = 3e-4
"""Peak of a window, as a share of full scale. The voice activity network (Silero) detected speech at a peak of 0.003, and
none at 0.001."""
SAMPLE_RATE = 16_000
"""The sample rate of the voice activity network, and of all recognition models so far, in Hz."""


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
            raise fail("unsupported", "This model cannot translate.", "Use a multilingual Whisper.", param="model")

    def recognize_all(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript]:
        """As `recognize`; for a model family that needs several passes."""
        return self.recognize(windows, options)

    def _group(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript | Exception]:
        try:
            return self.recognize_all(windows, options)
        except Exception as error:
            if len(windows) == 1:
                return [error]
            return [self._group([window], options)[0] for window in windows]


def has_speech(samples: Samples) -> bool:
    """Whether mono samples at 16 kHz contain speech. Near silence is not sent to the voice activity network."""
    if not len(samples) or max(samples.max(), -samples.min()) < QUIETEST_SPEECH:
        return False
    return bool(get_speech_timestamps(samples))
