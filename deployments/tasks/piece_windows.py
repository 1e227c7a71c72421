"""The sound of a piece as windows of a recogniser, which hears it to verify its words or to find their times."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.audio.pauses import PAUSE_RATE, pauses_of
from deployments.audio.resample import resample
from deployments.engines.protocols import (
    RecognitionEngine,
    RecognitionOptions,
    RecognitionTraits,
    Samples,
    Transcript,
    Window,
)
from deployments.tasks.engine_calls import one_for_each
from deployments.text.languages import NAMES, code_of


def windows_of_piece(
    samples: Samples, sample_rate: int, traits: RecognitionTraits, language: str, *, word_times: bool = False
) -> list[Window]:
    """Mono samples (n,) at their rate as windows of a recogniser with `traits`, cut in pauses where one is not enough.

    `language` is the voice's BCP 47 tag. A language that the recogniser does not know is detected.
    """
    code = code_of(language)
    options = RecognitionOptions(language=code if knows(traits, code) else None, word_times=word_times)
    sound = resample(samples, sample_rate, traits.sample_rate)
    most = int(traits.max_window_seconds * traits.sample_rate)
    windows = list[Window]()
    while len(sound) > most:
        cut = _cut(sound[:most], traits.sample_rate)
        windows.append(Window(sound[:cut], options))
        sound = sound[cut:]
    return [*windows, Window(sound, options)]


def transcripts_of(engine: RecognitionEngine, windows: Sequence[Window]) -> list[Transcript]:
    """What a recogniser in this process hears in windows. Raises the first error among its results."""
    transcripts = list[Transcript]()
    for result in one_for_each(engine.transcribe(windows), windows):
        if isinstance(result, Exception):
            raise result
        transcripts.append(result)
    return transcripts


def can_verify(traits: RecognitionTraits, language: str) -> bool:
    """Whether a recogniser can hear the words of a voice whose language, a BCP 47 tag, is known. It detects "und"."""
    return language == "und" or knows(traits, code_of(language))


def knows(traits: RecognitionTraits, code: str | None) -> bool:
    """Whether a recogniser knows a language by its code."""
    return code in NAMES and (not traits.languages or code in traits.languages)


def _cut(sound: Samples, sample_rate: int) -> int:
    """The middle of the last pause in the second half of a sound, or its end."""
    half = len(sound) // 2
    pauses = pauses_of(resample(sound[half:], sample_rate, PAUSE_RATE))
    return half + int(sum(pauses[-1]) / 2 * sample_rate) if pauses else len(sound)
