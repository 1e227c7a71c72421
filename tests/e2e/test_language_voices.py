"""A language-model voice through the whole service: uploaded clips only, and more streams than the model has slots."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

pytest.importorskip("transformers")

from tests.e2e.conftest import Service, encoded
from tests.unit.test_pocket_tts import write_tiny

RATE = 24_000
SLOTS, CLIENTS = 2, 6
TEXT = "One thing is said. Another one comes after it. " * 8


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("pocket")
    model = write_tiny(folder / "tiny")
    shutil.rmtree(model / "voices")
    own = {"engine": "pocket_tts", "source": f"path:{model}", "options": {"slots": SLOTS, "most_seconds": 0.4}}
    settings = {
        "defaults": False,
        "models": {"pocket": own},
        "voices": {"folder": str(folder / "uploaded")},
        "speech": {"pieces": {"first_piece_characters": 20, "piece_characters": 30}},
    }
    application = {"name": "motet", "import_path": "serve_app.app:build", "args": settings}
    config = folder / "serve_config.yaml"
    config.write_text(yaml.safe_dump({"http_options": {"port": 8000}, "applications": [application]}))
    running = Service.start(config, folder)
    with httpx.Client(base_url=running.url, timeout=60) as opened:
        yield opened
    running.stop(signal.SIGTERM)


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
