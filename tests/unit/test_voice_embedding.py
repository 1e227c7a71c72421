"""What the voice of a recording is like."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from deployments.engines.protocols import RecognitionOptions, Samples, Span, Window
from deployments.errors import MotetError
from deployments.settings import WindowSettings
from deployments.tasks.transcription import TranscriptionTask, WindowTicket
from deployments.tasks.voice_embedding import MAX_SPEECH_S, VoiceEmbeddingTask
from tests.unit.recognition_engine_properties import SENTENCES, spoken

RATE = 16_000
SETTINGS = WindowSettings()


def wav(samples: Samples) -> io.BytesIO:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes((samples * 32767).astype("<i2").tobytes())
    file.seek(0)
    return file


def test_an_embedding_is_a_unit_vector_that_pauses_do_not_change() -> None:
    sentence, pause = spoken(SENTENCES[0], RATE), np.zeros(2 * RATE, np.float32)
    ((short, none),) = VoiceEmbeddingTask().cut(wav(sentence), SETTINGS)
    ((long, _),) = VoiceEmbeddingTask().cut(wav(np.concatenate([pause, sentence, pause, sentence, pause])), SETTINGS)
    assert none is None
    assert np.linalg.norm(short.vector) == pytest.approx(1.0, abs=1e-5)
    assert float(short.vector @ long.vector) > 0.95
    assert long.speech_s == pytest.approx(2 * short.speech_s, rel=0.2)
    assert long.until_s == pytest.approx(6.0 + 2 * len(sentence) / RATE, abs=1e-3)


def test_a_long_recording_is_described_by_its_first_minute() -> None:
    sentence = spoken(SENTENCES[0], RATE)
    ((found, _),) = VoiceEmbeddingTask().cut(wav(np.tile(sentence, 25)), SETTINGS)
    assert found.until_s > found.speech_s == pytest.approx(MAX_SPEECH_S)


def test_silence_has_no_voice() -> None:
    with pytest.raises(MotetError, match=r"0\.0 s of speech") as refused:
        list(VoiceEmbeddingTask().cut(wav(np.zeros(3 * RATE, np.float32)), SETTINGS))
    assert (refused.value.failure.param, refused.value.failure.code) == ("file", "too_little_speech")


def test_padding_around_speech_is_no_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: Any) -> Iterator[tuple[WindowTicket, Window]]:
        ticket = WindowTicket(0, (Span(0.25, 0.25, 0.55),), 0.8)
        yield ticket, Window(np.full(round(0.8 * RATE), 0.1, np.float32), RecognitionOptions())

    monkeypatch.setattr(TranscriptionTask, "cut", cut)
    with pytest.raises(MotetError, match=r"0\.3 s of speech"):
        list(VoiceEmbeddingTask().cut(io.BytesIO(), SETTINGS))
