"""GET /v1/audio/speech/stream with a real client, in both profiles: audio while the text is written, nothing left open."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from openai import OpenAI
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from deployments.engines.simulated.engine import tone

from .conftest import KEYS, PROFILES, ROOT, Float, Service, config_of, from_int16, heard_in, wait_for, word_errors

RATE = 24_000
CHARACTER_MS = 20
FIRST, SECOND = "It rained all day in the old town.", "We stayed inside and read to each other."
LONG = " ".join(f"This is sentence number {n}, and it takes its time." for n in range(30))
IDLE_S = 2.0
CONFIG = {"type": "session.config", "model": "tone", "response_format": "pcm"}
BEARER = {"Authorization": f"Bearer {KEYS[0]}"}


@pytest.fixture(scope="module", params=PROFILES)
def toned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with keys and a model of tones, behind each of the fronts."""
    profile: str = request.param
    folder = tmp_path_factory.mktemp(profile)
    options = {"step_ms": 20, "character_ms": CHARACTER_MS}
    settings = {
        "models": {"tone": {"engine": "simulated", "options": options}},
        "speech": {"arrival": {"idle_s": IDLE_S, "max_characters": 2000, "max_message_bytes": 4000}},
        "security": {"api_key_sha256": [hashlib.sha256(key.encode()).hexdigest() for key in KEYS]},
    }
    config = config_of(folder, settings)
    running = Service.start(config, folder, profile=profile)
    yield running
    running.stop(signal.SIGTERM)


def session(
    service: Service, headers: dict[str, str] | None = BEARER, **options: Any
) -> AbstractContextManager[ClientConnection]:
    url = service.url.replace("http", "ws") + "/v1/audio/speech/stream"
    opened: AbstractContextManager[ClientConnection] = connect(
        url, additional_headers=headers, max_size=None, **options
    )
    return opened


def send(socket: ClientConnection, *messages: dict[str, Any]) -> None:
    for message in messages:
        socket.send(json.dumps(message))


def text(words: str) -> dict[str, str]:
    return {"type": "input.text", "text": words}


DONE = {"type": "input.done"}


def rest_of(socket: ClientConnection) -> tuple[list[dict[str, Any]], bytes, int]:
    """The events and the sound up to the end, and the code it was closed with."""
    events, sound = [], bytearray()
    try:
        while True:
            message = socket.recv(timeout=60)
            if isinstance(message, bytes):
                sound += message
            else:
                events.append(json.loads(message))
    except ConnectionClosed as closed:
        assert closed.rcvd is not None
        return events, bytes(sound), closed.rcvd.code


def toned_sound(words: str) -> Float:
    return tone(words, 0, len(words) * CHARACTER_MS * RATE // 1000)


def test_the_first_sound_is_there_before_the_rest_is_written(toned: Service) -> None:
    with session(toned) as socket:
        send(socket, CONFIG, text("It rained all day in the old to"), text("wn. We stayed inside"))
        start = json.loads(socket.recv(timeout=60))
        assert (start["type"], start["format"], start["sample_rate"]) == ("audio.start", "pcm", RATE)
        assert start["sentence_text"] == FIRST
        first = b""
        while len(first) < 2 * len(toned_sound(FIRST)):  # all of it: what follows was not written yet
            part = socket.recv(timeout=60)
            first += part if isinstance(part, bytes) else b""
        np.testing.assert_allclose(from_int16(first), toned_sound(FIRST), atol=1e-3)
        told = json.loads(socket.recv(timeout=60))
        assert (told["type"], told["sentence_index"]) == ("audio.done", 0)
        send(socket, text(" and read to each other."), DONE)
        events, rest, code = rest_of(socket)
    np.testing.assert_allclose(from_int16(rest), toned_sound(SECOND), atol=1e-3)
    assert [event["type"] for event in events][-2:] == ["audio.done", "session.done"]
    assert events[-1]["finish_reason"] == "stop"
    assert events[-1]["usage"]["audio_seconds"] == pytest.approx(len(first + rest) / 2 / RATE, abs=0.01)
    assert code == 1000


def test_what_is_written_is_spoken_when_the_writer_pauses(toned: Service) -> None:
    with session(toned) as socket:
        send(socket, CONFIG, text("It rained all d"))
        assert json.loads(socket.recv(timeout=60))["type"] == "audio.start"
        sound = b""
        while len(sound) < 2 * len(toned_sound("It rained all")):
            sound += bytes(socket.recv(timeout=60))  # type: ignore[arg-type]
        np.testing.assert_allclose(from_int16(sound), toned_sound("It rained all"), atol=1e-3)


def test_many_sessions_hear_their_own_text(toned: Service) -> None:
    said = [f"Passenger number {number} has a ticket." for number in range(8)]
    with ExitStack() as opened:
        sockets = [opened.enter_context(session(toned)) for _ in said]
        for socket, words in zip(sockets, said, strict=True):
            send(socket, CONFIG, *map(text, words), DONE)
        for socket, words in zip(sockets, said, strict=True):
            _, sound, code = rest_of(socket)
            assert code == 1000
            np.testing.assert_allclose(from_int16(sound), toned_sound(words), atol=1e-3)


def open_streams(service: Service) -> tuple[int, int]:
    """At the gateway, and at the replica."""
    state = httpx.get(f"{service.url}/readyz", timeout=20).json()
    return state["queues"]["tone@cpu"]["open"], state["models"]["tone"]["open_streams"]


def test_a_client_that_leaves_frees_its_place(toned: Service) -> None:
    with session(toned) as socket:
        send(socket, CONFIG, text(LONG))
        while not isinstance(socket.recv(timeout=60), bytes):
            pass
        assert open_streams(toned) == (1, 1)
        socket.socket.close()  # without a word
    wait_for(lambda: open_streams(toned) == (0, 0), 30, "the place to be free")


def test_a_client_that_never_says_anything_is_let_go(toned: Service) -> None:
    with session(toned) as socket:
        send(socket, CONFIG)
        events, _, code = rest_of(socket)
    assert [event["error"]["code"] for event in events] == ["session_idle"]
    assert code == 1013
    assert open_streams(toned) == (0, 0)


WRONG: dict[str, tuple[list[dict[str, Any]], str, int]] = {
    "no config": ([text("Hello.")], "no_config", 1008),
    "unknown model": ([{**CONFIG, "model": "nobody"}], "model_not_found", 1008),
    "misspelt field": ([{**CONFIG, "sped": 2}], "extra_forbidden", 1008),
    "too much text": ([CONFIG, text("a b " * 300), text("a b " * 300)], "string_above_max_length", 1009),
    "too large a message": ([CONFIG, text("a b " * 2000)], "message_too_large", 1009),
}


@pytest.mark.parametrize(("messages", "error", "closed"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_told_in_openais_shape(
    messages: list[dict[str, Any]], error: str, closed: int, toned: Service
) -> None:
    with session(toned) as socket:
        send(socket, *messages)
        events, _, code = rest_of(socket)
    assert events[-1]["type"] == "error"
    assert set(events[-1]["error"]) == {"message", "type", "param", "code"}
    assert (events[-1]["error"]["code"], code) == (error, closed)


STRANGERS: dict[str, tuple[dict[str, str] | None, dict[str, Any], int, str]] = {
    "no key": (None, {}, 401, "invalid_api_key"),
    "wrong key": ({"Authorization": "Bearer no"}, {}, 401, "invalid_api_key"),
    "other origin": (BEARER, {"origin": "http://evil.example"}, 403, "origin_not_allowed"),
}


@pytest.mark.parametrize(("headers", "options", "status", "code"), STRANGERS.values(), ids=STRANGERS.keys())
def test_strangers_get_no_socket(
    headers: dict[str, str] | None, options: dict[str, Any], status: int, code: str, toned: Service
) -> None:
    with pytest.raises(InvalidStatus) as refused, session(toned, headers, **options):
        pass
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body)["error"]["code"] == code


def test_a_browser_sends_its_key_as_a_subprotocol(toned: Service) -> None:
    offered = [Subprotocol("realtime"), Subprotocol(f"openai-insecure-api-key.{KEYS[1]}")]
    with session(toned, None, subprotocols=offered, origin=toned.url) as socket:
        assert socket.subprotocol == "realtime"
        send(socket, CONFIG, text(FIRST), DONE)
        assert rest_of(socket)[2] == 1000


def test_a_voice_reads_what_is_written_word_by_word(service: Service, client: OpenAI) -> None:
    said = "The quick brown fox jumps over the lazy dog. Then it sleeps under a tree until the sun is gone."
    with session(service, None) as socket:
        send(socket, {**CONFIG, "model": "tts-1", "voice": "alloy", "response_format": "mp3"})
        send(socket, *(text(f"{word} ") for word in said.split()), DONE)
        events, sound, code = rest_of(socket)
    assert code == 1000, events
    assert word_errors(heard_in(client, sound, "sound.mp3"), said) < 0.1


def test_the_same_text_is_the_same_sound_however_it_comes(service: Service, http: httpx.Client) -> None:
    body = {"model": "tts-1", "response_format": "pcm", "seed": 5}
    whole = http.post("/v1/audio/speech", json={**body, "input": f"{FIRST} {SECOND}"}).content
    with session(service, None) as socket:
        send(socket, {**CONFIG, **body}, *map(text, f"{FIRST} {SECOND}"), DONE)
        _, sound, _ = rest_of(socket)
    assert sound == whole


def test_the_example_of_the_docs_hears_its_sentence(service: Service, client: OpenAI, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "sessions.md").read_text()
    example = page.split("```python\n")[1].split("```")[0]
    run = subprocess.run(
        [sys.executable, "-c", example.replace("localhost:8000", f"127.0.0.1:{service.port}")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    said = "The first sentence is heard. The second one is still being written."
    assert word_errors(heard_in(client, (tmp_path / "session.mp3").read_bytes(), "sound.mp3"), said) < 0.2
