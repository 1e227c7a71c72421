"""The default models in this process, with the thread settings that they have in the service."""

from __future__ import annotations

import io
from collections.abc import Generator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from deployments.audio.encode import open_encoder
from deployments.engines.protocols import (
    AudioChunk,
    RecognitionEngine,
    RecognitionOptions,
    Samples,
    SeparationEngine,
    SpeechEngine,
    SpeechRequest,
)
from deployments.replica.base import load_engine
from deployments.tasks.in_process_speech import speak_here
from deployments.tasks.piece_preparation import PieceMaker
from deployments.tasks.separation import SeparationTask, separate_here
from deployments.tasks.transcription import task_for, text_of, transcribe_here
from deployments.text.normalization.rules import ReadingRules
from deployments.text.piece import Piece
from deployments.text.sample_sentences import LONG_TEXT
from deployments.text.sources import WholeText
from serve_app.bench.bare_server import first_replica_of
from serve_app.config import AppConfig

SPEECH_MODEL, RECOGNITION_MODEL, SEPARATION_MODEL = "hibari", "whisper-base", "deepfilternet"
WORDS_PER_SECOND = 4
"""More words than a voice says in a second."""


class Engines:
    """The service's models in this process, each loaded when it is first used. `hears` names the model that transcribes."""

    def __init__(self, config: AppConfig, hears: str = RECOGNITION_MODEL) -> None:
        self.config = config
        self._hears = hears

    @cached_property
    def speech(self) -> SpeechEngine[Any]:
        """The voice."""
        engine: SpeechEngine[Any] = load_engine(first_replica_of(SPEECH_MODEL, self.config))
        return engine

    @cached_property
    def recognition(self) -> RecognitionEngine:
        """The listener."""
        engine: RecognitionEngine = load_engine(first_replica_of(self._hears, self.config))
        return engine

    @cached_property
    def separation(self) -> SeparationEngine:
        """The separator."""
        engine: SeparationEngine = load_engine(first_replica_of(SEPARATION_MODEL, self.config))
        return engine

    def pieces(self, text: str, rules: ReadingRules | None = None) -> tuple[Piece, ...]:
        """The pieces of a text, read by the rules of the configuration or by others. Raises `MotetError` for no words."""
        speech, traits = self.config.speech, self.speech.traits
        maker = PieceMaker(
            traits, traits.default_voice, (speech.known_words,), speech.normalize if rules is None else rules
        )
        return maker.of_text(text, speech.pieces).pieces

    def spoken(self, pieces: Sequence[Piece]) -> Generator[AudioChunk]:
        """The chunks of some pieces, as they are made."""
        return speak_here(SpeechRequest((), self.speech.traits.default_voice), self.speech, WholeText(pieces))

    def say(self, text: str) -> Samples:
        """The audio of a text, (n,) float32."""
        return np.concatenate([chunk.samples for chunk in self.spoken(self.pieces(text))])

    def wav(self, text: str) -> bytes:
        """A spoken text as a WAV file."""
        return wav_of(self.say(text), self.speech.traits.sample_rate)

    def recording(self, seconds: float) -> bytes:
        """The first `seconds` of the spoken long text as a WAV file."""
        samples = self.say(opening(LONG_TEXT, int(seconds * WORDS_PER_SECOND)))
        length = int(seconds * self.speech.traits.sample_rate)
        assert len(samples) >= length, "the text is too short"
        return wav_of(samples[:length], self.speech.traits.sample_rate)

    def transcribe(self, recording: bytes) -> str:
        """The transcript of a recording."""
        task = task_for(self.recognition.traits, RecognitionOptions())
        return text_of(list(transcribe_here(io.BytesIO(recording), task, self.recognition, self.config.windows)))

    def separate(self, recording: bytes) -> bytes:
        """The first stem of a recording as a WAV file."""
        settings, traits = self.config.separation, self.separation.traits
        task = SeparationTask.for_model(traits, settings)
        parts = list(separate_here(io.BytesIO(recording), task, self.separation, settings.max_audio_s))
        stem = np.concatenate([part.stems[traits.stems[0]] for part in parts], axis=-1)
        return wav_of(stem, parts[0].sample_rate)


def wav_of(samples: Samples, sample_rate: int) -> bytes:
    """A 16-bit WAV file of (n,) or (channels, n) float32."""
    channels = len(samples) if samples.ndim == 2 else 1
    encoder = open_encoder("wav", sample_rate, channels, total_samples=samples.shape[-1])
    return encoder.encode(samples) + encoder.finish()


def opening(text: str, words: int) -> str:
    """The first paragraphs of a text that together have at least `words` words."""
    taken: list[str] = []
    for paragraph in text.split("\n\n"):
        if sum(len(part.split()) for part in taken) >= words:
            break
        taken.append(paragraph)
    return "\n\n".join(taken)
