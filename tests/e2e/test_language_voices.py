"""A language-model voice through the whole service: uploaded clips only, and more streams than the model has slots."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from tests.e2e.conftest import Service, encoded

RATE = 24_000
CLIENTS = 6
"""More than the slots of `cloning_service`."""
TEXT = "One thing is said. Another one comes after it. " * 8


@pytest.fixture(scope="module")
def client(cloning_service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cloning_service.url, timeout=60) as opened:
        yield opened


def events(client: httpx.Client, voice: str, seed: int) -> list[dict[str, Any]]:
    """Of one long text."""
    body = {"model": "pocket", "input": TEXT, "voice": voice, "seed": seed, "stream_format": "sse"}
    answer = client.post("/v1/audio/speech", json=body | {"response_format": "pcm"}).raise_for_status()
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: {")]


def test_streams_keep_their_places_when_there_are_more_of_them_than_slots(client: httpx.Client) -> None:
    times = np.arange(2 * RATE) / RATE
    sound = encoded((0.3 * np.sin(2 * np.pi * 200 * times)).astype(np.float32), RATE, "FLAC")
    form = {"name": "Me", "consent": "I agree to this use of my voice."}
    made = client.post("/v1/audio/voices", data=form, files={"audio_sample": ("me.flac", sound)}).raise_for_status()
    voice = made.json()["id"]
    with ThreadPoolExecutor(CLIENTS) as pool:
        heard = list(pool.map(lambda seed: events(client, voice, seed), range(CLIENTS)))
    assert [stream[-1]["type"] for stream in heard] == ["speech.audio.done"] * CLIENTS
    assert all(stream[-1]["finish_reason"] in ("stop", "length", "silence") for stream in heard)
    assert not [event for stream in heard for event in stream if event["type"] == "error"]


def test_a_model_without_voices_of_its_own_says_what_to_do(client: httpx.Client) -> None:
    answer = client.post("/v1/audio/speech", json={"model": "pocket", "input": "Hello.", "voice": "alloy"})
    assert answer.status_code == 404
    assert "/v1/audio/voices" in answer.json()["error"]["message"]
