"""Paced streams with an engine that stops for a while: concealment, its event, and the fallback voice."""

from __future__ import annotations

import base64
import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.engines.simulated.engine import tone
from tests.e2e.conftest import Service, config_of, from_int16

pytestmark = pytest.mark.alone

RATE = 24_000
BEGIN = "This sentence is as long as a first piece may be, and begins with a tone."
STALLS = "And here the engine will stall for much longer than its listener can wait for it."
END = "The rest is then said by somebody else, which is told in an event."
STALL_MS = 6000


@pytest.fixture(scope="module")
def late_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A model that stalls at a word of the text, and hibari as the fallback voice."""
    folder = tmp_path_factory.mktemp("late")
    options = {"step_ms": 20, "character_ms": 20, "stall_ms": STALL_MS}
    models = {
        "late": {"engine": "simulated", "options": options},
        "hibari": {"engine": "hibari", "source": "wheel:hibari-tts"},
    }
    config = config_of(folder, {"models": models})
    running = Service.start(config, folder)
    yield running
    running.stop(signal.SIGTERM)


def events(service: Service, text: str, **fields: Any) -> list[dict[str, Any]]:
    body = {"model": "late", "input": text, "response_format": "pcm", "stream_format": "sse", **fields}
    answer = httpx.post(f"{service.url}/v1/audio/speech", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    lines = (line for line in answer.text.split("\n") if line.startswith("data: "))
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def sound_of(told: list[dict[str, Any]]) -> Any:
    return from_int16(b"".join(base64.b64decode(event["audio"]) for event in told if "audio" in event))


def test_what_is_late_is_concealed_and_another_voice_goes_on(late_service: Service) -> None:
    told = events(late_service, f"{BEGIN} {STALLS} {END}", pacing="played")
    concealed = [event for event in told if event["type"] == "speech.audio.concealed"]
    assert concealed
    assert concealed[-1]["fallback"] is True
    assert concealed[-1]["concealed_seconds"] >= 1.0
    assert told[-1]["type"] == "speech.audio.done"
    sound, begin = sound_of(told), tone(BEGIN, 0, len(BEGIN) * RATE // 50)
    np.testing.assert_allclose(sound[: len(begin)], begin, atol=1e-3)
    spoken_by_another = (len(STALLS) + len(END)) * RATE // 50
    assert len(sound) > len(begin) + spoken_by_another + RATE, "a voice is slower than a tone, and there was a gap"


def test_a_model_that_never_begins_is_replaced(late_service: Service) -> None:
    told = events(late_service, STALLS, pacing="low-latency")
    assert told[-1]["type"] == "speech.audio.done"
    assert told[-1]["timing"]["first_sound"] < STALL_MS
    assert float(np.sqrt(np.mean(np.square(sound_of(told))))) > 0.01
    assert len(sound_of(told)) > 2 * RATE


def test_a_fast_stream_waits_and_is_never_touched(late_service: Service) -> None:
    sound = sound_of(events(late_service, STALLS, pacing="fast"))
    np.testing.assert_allclose(sound, tone(STALLS, 0, len(STALLS) * RATE // 50), atol=1e-3)


def test_a_played_stream_is_not_sent_ahead_of_its_listener(late_service: Service) -> None:
    """However fast the engine is, the last byte cannot leave before the look-ahead allows it."""
    text = f"{BEGIN} {END}"
    started = time.monotonic()
    sound = sound_of(events(late_service, text, pacing="low-latency"))
    seconds = len(sound) / RATE
    assert seconds == pytest.approx(sum(map(len, (BEGIN, END))) / 50, abs=0.1)
    assert time.monotonic() - started >= seconds - 2 * 0.5, "the look-ahead of the preset is 500 ms, at most doubled"
