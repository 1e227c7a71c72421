"""The client's own voices over HTTP, with OpenAI's client."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import openai
import pytest
from openai import OpenAI

from tests.e2e.conftest import KEYS, Service, encoded

CONSENT = "I am the speaker and agree to this use of my voice."
RATE = 16_000


@pytest.fixture
def clients(keyed_service: Service) -> Iterator[list[OpenAI]]:
    """One for each key."""
    opened = [OpenAI(base_url=f"{keyed_service.url}/v1", api_key=key, max_retries=0, timeout=60) for key in KEYS]
    yield opened
    for client in opened:
        client.close()


def clip(seconds: float) -> bytes:
    times = np.arange(int(seconds * RATE)) / RATE
    return encoded((0.3 * np.sin(2 * np.pi * 200 * times)).astype(np.float32), RATE, "FLAC")


def test_a_voice_is_made_and_deleted_by_its_owner_only(clients: list[OpenAI]) -> None:
    mine, yours = clients
    voice = mine.audio.voices.create(audio_sample=("me.flac", clip(2.0)), name="Me", consent=CONSENT)
    assert (voice.object, voice.type, voice.name) == ("audio.voice", "audio_sample", "Me")
    again = mine.audio.voices.create(audio_sample=("me.flac", clip(2.0)), name="Me", consent=CONSENT)
    assert again.id == voice.id
    with pytest.raises(openai.NotFoundError):
        yours.audio.voices.delete(voice.id)
    assert mine.audio.voices.delete(voice.id).deleted
    with pytest.raises(openai.NotFoundError, match="no voice"):
        mine.audio.voices.delete(voice.id)


def test_what_is_no_voice_is_refused_with_a_reason(clients: list[OpenAI]) -> None:
    with pytest.raises(openai.BadRequestError, match="a voice needs"):
        clients[0].audio.voices.create(audio_sample=("me.flac", clip(0.2)), name="Me", consent=CONSENT)
    with pytest.raises(openai.BadRequestError, match="consent"):
        clients[0].audio.voices.create(audio_sample=("me.flac", clip(2.0)), name="Me", consent="")
    with pytest.raises(openai.APIStatusError, match="10,485,760"):
        clients[0].audio.voices.create(audio_sample=("me.flac", bytes(11 * 2**20)), name="Me", consent=CONSENT)
