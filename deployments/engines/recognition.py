"""What recognition engines of every library share: checks of windows, batches of those with equal options, and a window that
fails does so alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from deployments.audio.voice_activity import has_speech, is_audible
from deployments.engines.protocols import RecognitionOptions, RecognitionTraits, Samples, Transcript, Window
from deployments.errors import fail
from deployments.text.languages import NAMES

MOST_LISTED = 12
"""Languages of a model that a refusal lists."""
SAMPLE_RATE = 16_000
"""The sample rate of the voice activity network, and of all recognition models so far, in Hz."""


class CheckedRecognition(ABC):
    """Transcribes a batch. An invalid window fails alone; one without sound gives an empty transcript."""

    @property
    @abstractmethod
    def traits(self) -> RecognitionTraits:
        """The model's abilities."""

    @abstractmethod
    def recognize_all(self, windows: Sequence[Window]) -> Sequence[Transcript]:
        """One transcript for each window. All windows are valid, contain sound, and may have different options."""

    def transcribe(self, windows: Sequence[Window]) -> list[Transcript | Exception]:
        """One transcript for each window."""
        results: dict[int, Transcript | Exception] = {}
        valid: list[int] = []
        for position, window in enumerate(windows):
            try:
                self._check(window)
            except Exception as error:
                results[position] = error
                continue
            if self.is_worth_a_step(window.samples):
                valid.append(position)
            else:
                results[position] = Transcript((), window.options.language or "en")
        results.update(zip(valid, self._each_alone_after_a_failure([windows[at] for at in valid]), strict=True))
        return [results[position] for position in range(len(windows))]

    def is_worth_a_step(self, samples: Samples) -> bool:
        """Whether the network is asked: not for silence."""
        return is_audible(samples)

    def _each_alone_after_a_failure(self, windows: Sequence[Window]) -> Sequence[Transcript | Exception]:
        if not windows:
            return []
        try:
            return self.recognize_all(windows)
        except Exception as error:
            if len(windows) == 1:
                return [error]
            return [self._each_alone_after_a_failure([window])[0] for window in windows]

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
        check_options(window.options, traits)


class WindowedRecognition(CheckedRecognition):
    """Transcribes windows with equal options as one batch. A window without speech gives an empty transcript."""

    @abstractmethod
    def recognize(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript]:
        """One transcript for each window, computed as one batch. All windows are valid, contain speech, and have these
        `options`."""

    def recognize_all(self, windows: Sequence[Window]) -> list[Transcript]:
        """One transcript for each window; windows with equal options are one batch."""
        groups: dict[RecognitionOptions, list[int]] = defaultdict(list)
        for position, window in enumerate(windows):
            groups[window.options].append(position)
        results: dict[int, Transcript] = {}
        for options, positions in groups.items():
            results.update(zip(positions, self.recognize([windows[at] for at in positions], options), strict=True))
        return [results[position] for position in range(len(windows))]

    def is_worth_a_step(self, samples: Samples) -> bool:
        """Whether there is speech: these models have no measure of their own for it."""
        return has_speech(samples)


def check_options(options: RecognitionOptions, traits: RecognitionTraits, model: str = "This model") -> None:
    """Raises `MotetError` (unsupported) for a language or a translation that a model with these abilities cannot do. `model`
    begins the message."""
    language = options.language
    if language is not None and traits.languages and language not in traits.languages:
        cause = f"{model} does not transcribe {NAMES.get(language, language)} ({language})."
        remedy = f"Its languages: {', '.join(traits.languages[:MOST_LISTED])}."
        raise fail("unsupported", cause, remedy, param="language")
    if options.translate and not traits.translates:
        raise fail("unsupported", f"{model} cannot translate.", "Use a multilingual Whisper.", param="model")
