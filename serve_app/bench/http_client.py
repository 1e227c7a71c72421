"""A client with one connection that stays open, and the time to the first and the last byte of each answer."""

from __future__ import annotations

import http.client
import itertools
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deployments.errors import fail
from serve_app.bench.local_engines import RECOGNITION_MODEL, SPEECH_MODEL
from serve_app.bench.running_service import RunningProgram

REQUEST_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, and the seconds from sending the request to its first and its last byte."""

    body: bytes
    first_byte_seconds: float
    seconds: float


class Client:
    """One client with one connection that stays open."""

    def __init__(self, program: RunningProgram, timeout_s: float) -> None:
        self._takes = itertools.count(1)
        self._connection = http.client.HTTPConnection(program.host, program.port, timeout=timeout_s)

    def speak(self, text: str, audio_format: str) -> Answer:
        """Speaks a text. Each call has another seed, because the service caches the audio of equal requests."""
        body = {"model": SPEECH_MODEL, "input": text, "response_format": audio_format, "seed": next(self._takes)}
        return self._post("/v1/audio/speech", json.dumps(body).encode(), "application/json")

    def transcribe(self, recording: bytes, **fields: str) -> Answer:
        """Transcribes a recording. `fields` override those of the form."""
        default = {"model": RECOGNITION_MODEL, "response_format": "text"}
        return self._upload("/v1/audio/transcriptions", recording, **(default | fields))

    def separate(self, recording: bytes, model: str, stem: str) -> Answer:
        """Separates one stem of a recording."""
        return self._upload("/v1/audio/separations", recording, model=model, stems=stem, response_format="wav")

    def readiness(self) -> dict[str, Any]:
        """The reports of all replicas."""
        self._connection.request("GET", "/readyz")
        models: dict[str, Any] = json.loads(self._connection.getresponse().read())["models"]
        return models

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def _upload(self, path: str, file: bytes, **fields: str) -> Answer:
        return self._post(path, *form_of(file, fields))

    def _post(self, path: str, body: bytes, content_type: str) -> Answer:
        started = time.perf_counter()
        self._connection.request("POST", path, body, {"content-type": content_type})
        response = self._connection.getresponse()
        first = response.read1(1)
        first_byte = time.perf_counter() - started
        whole = first + response.read()
        seconds = time.perf_counter() - started
        if response.status != 200:
            raise fail("engine", f"{path} answered {response.status}: {whole[:500].decode(errors='replace')}")
        return Answer(whole, first_byte, seconds)


def form_of(file: bytes, fields: Mapping[str, str]) -> tuple[bytes, str]:
    """A form with a recording after its fields, and its content type."""
    mark = uuid.uuid4().hex
    part = f'--{mark}\r\nContent-Disposition: form-data; name="{{}}"{{}}\r\n\r\n'
    body = b"".join(f"{part.format(name, '')}{value}\r\n".encode() for name, value in fields.items())
    body += part.format("file", '; filename="recording.wav"').encode() + file + f"\r\n--{mark}--\r\n".encode()
    return body, f"multipart/form-data; boundary={mark}"


@contextmanager
def connected(program: RunningProgram, timeout_s: float = REQUEST_TIMEOUT_S) -> Iterator[Client]:
    """A client of a running server. A server that sends nothing for `timeout_s` has failed."""
    client = Client(program, timeout_s)
    try:
        yield client
    finally:
        client.close()
