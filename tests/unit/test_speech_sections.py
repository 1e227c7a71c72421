"""Sections of speech of whole recordings, and their speakers, as tickets."""

from __future__ import annotations

import io

import numpy as np
import pytest
from faster_whisper.vad import get_speech_timestamps

from deployments.audio.encode import open_encoder
from deployments.engines.protocols import Samples
from deployments.errors import MotetError
from deployments.settings import VoiceActivitySettings, WindowSettings
from deployments.tasks.diarization import SpeakerTask
from deployments.tasks.voice_activity import SpeechTicket, VoiceActivityTask, speech_here
from tests.unit.recognition_engine_properties import SENTENCES, spoken

RATE = 16_000


def encoded(samples: Samples) -> io.BytesIO:
    encoder = open_encoder("wav", RATE)
    return io.BytesIO(encoder.encode(samples) + encoder.finish())


def tickets_of(samples: Samples, task: VoiceActivityTask) -> list[SpeechTicket]:
    tickets = list(speech_here(encoded(samples), task, WindowSettings()))
    assert [ticket.index for ticket in tickets] == list(range(len(tickets)))
    assert tickets[-1].until_s == pytest.approx(len(samples) / RATE)
    return tickets


@pytest.fixture(scope="module")
def dialogue() -> Samples:
    """100 s: each sentence, and silence around it."""
    samples = np.zeros(100 * RATE, np.float32)
    for at_s, sentence in zip((1, 8, 60), SENTENCES, strict=True):
        sound = spoken(sentence, RATE)
        samples[at_s * RATE : at_s * RATE + len(sound)] = sound
    return samples


def test_sections_are_those_of_silero_and_come_while_the_recording_is_read(dialogue: Samples) -> None:
    wanted = VoiceActivitySettings(threshold=0.4, min_speech_ms=50, min_silence_ms=200, pad_ms=30)
    tickets = tickets_of(dialogue, VoiceActivityTask(voice_activity=wanted))
    heard = get_speech_timestamps(
        np.round(dialogue * 32767).astype(np.float32) / 32768,
        threshold=0.4,
        min_speech_duration_ms=50,
        min_silence_duration_ms=200,
        speech_pad_ms=30,
    )
    found = [(section.start_s, section.end_s) for ticket in tickets for section in ticket.sections]
    np.testing.assert_allclose(found, [(each["start"] / RATE, each["end"] / RATE) for each in heard], atol=0.04)
    assert len(tickets) == 4
    assert tickets[0].sections and tickets[1].sections == ()


def test_the_last_ticket_has_the_speakers(dialogue: Samples) -> None:
    tickets = tickets_of(dialogue, VoiceActivityTask(speakers=SpeakerTask(speakers=1)))
    assert not any(ticket.turns for ticket in tickets[:-1])
    starts = [turn.start_s for turn in tickets[-1].turns]
    np.testing.assert_allclose(starts, [1.3, 8.3, 60.3], atol=0.15)
    assert {turn.speaker for turn in tickets[-1].turns} == {"A"}


def test_what_is_not_a_recording_is_refused() -> None:
    with pytest.raises(MotetError):
        list(speech_here(io.BytesIO(b"no sound"), VoiceActivityTask(), WindowSettings()))
