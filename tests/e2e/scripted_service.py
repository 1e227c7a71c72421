"""A service that answers the Studio as a test says. What the page does with slow, crossing or broken answers needs no model."""

from __future__ import annotations

import base64
import io
import json
import threading
import wave
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from serve_app.gateway.middleware.page_headers import PAGE_HEADERS

PAGE = Path(__file__).parents[2] / "serve_app" / "page"
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
MOST_WAIT_S = 60.0
JSON, EVENTS = "application/json", "text/event-stream"
RATE = 24_000

Part = bytes | threading.Event


def model(name: str, task: str, **facts: object) -> dict[str, object]:
    """A model of `/v1/models`."""
    known = {"task": task, "placements": ["cpu"], "aliases": [], "languages": ["en"], "word_timestamps": True}
    return {"id": name, "object": "model", "motet": {**known, **facts}}


MODELS = (
    model("one", "speech"),
    model("two", "speech", clones=True),
    model("hears", "transcription"),
    model("parts", "separation", stems=["speech", "background"]),
    model("talks", "conversation", answers="echo"),
)


@dataclass(frozen=True)
class Answer:
    """An answer. Its parts are sent one after another; the service waits for an event among them."""

    parts: Sequence[Part] = ()
    kind: str = JSON
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    broken: bool = False
    """Whether the connection ends before the answer does."""


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    method: str
    path: str
    query: str
    body: bytes
    key: str = ""
    """The API key that was sent."""


def json_of(document: object) -> Answer:
    return Answer([json.dumps(document).encode()])


def voices_of(*names: str) -> Answer:
    """Voices of a model."""
    return json_of({"object": "list", "data": [{"id": name, "object": "voice", "language": "en"} for name in names]})


def own_voices_of(*names: str) -> Answer:
    """Voices that the person has made."""
    own = {"object": "audio.voice", "seconds": 5.0, "models": ["two"]}
    return json_of({"object": "list", "data": [{"id": f"voice_{name}", "name": name, **own} for name in names]})


def event_of(**document: object) -> bytes:
    return f"data: {json.dumps(document)}\n\n".encode()


def spoken_events(text: str, word_s: float = 0.1, done: bool = True) -> list[bytes]:
    """The events of a quiet speech, one for each word; without the last one it has broken off."""
    audio = base64.b64encode((b"\x00\x08\x00\xf8") * round(RATE * word_s / 2)).decode()
    events = []
    for number, word in enumerate(text.split()):
        times = {"text": word, "start": number * word_s, "end": (number + 1) * word_s}
        events.append(event_of(type="speech.audio.delta", audio=audio, words=[times]))
    return [*events, event_of(type="speech.audio.done")] if done else events


def speech_of(text: str, word_s: float = 0.1) -> Answer:
    """A whole speech."""
    return Answer(spoken_events(text, word_s), EVENTS)


def transcript_of(text: str, word_s: float = 0.2) -> Answer:
    """A transcript of two speakers, each of whom says half of it."""
    said = text.split()
    words = [{"word": word, "start": i * word_s, "end": (i + 1) * word_s} for i, word in enumerate(said)]
    half = len(said) // 2 * word_s
    ends = ((0.0, half, "A"), (half, len(said) * word_s, "B"))
    segments = [
        event_of(type="transcript.text.segment", start=start, end=end, speaker=speaker, text="")
        for start, end, speaker in ends
    ]
    delta = event_of(type="transcript.text.delta", delta=text, words=words)
    return Answer([delta, *segments, event_of(type="transcript.text.done", text=text)], EVENTS)


def wav_of(seconds: float, level: int = 2048) -> bytes:
    """A WAV file with a square wave."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", ""))
        period = level.to_bytes(2, "little", signed=True) * 30 + (-level).to_bytes(2, "little", signed=True) * 30
        writer.writeframes(period * round(RATE * seconds / 60))
    return file.getvalue()


def tracks_of(kind: str, *names: str, seconds: float = 0.5) -> Answer:
    """The tracks that a task makes of a recording."""
    audio = base64.b64encode(wav_of(seconds)).decode()
    events = [event_of(type=f"{kind}.audio.delta", stem=name, audio=audio) for name in names]
    return Answer([*events, event_of(type=f"{kind}.audio.done")], EVENTS)


def status_of(*results: tuple[float, float]) -> Answer:
    """The status of a service with one placement; `results` are when requests ended, in Unix seconds, and their first results in ms."""
    queue = {"open": 1, "queued_seconds": 2.0, "wait_s": 0.5, "speed": 12.0, "refused": 0}
    placement = {
        "name": "one@cpu", "model": "one", "hardware": "cpu", "task": "speech", "state": "ready", "cause": None,
        "device": "cpu", "memory_bytes": 2_000_000, "queue": queue, "steps": {"steps": 4, "items": 6, "largest": 2},
        "max_batch_size": 4,
    }  # fmt: skip
    stream = {"model": "one", "placement": "one@cpu", "made_seconds": 3.0, "buffered_seconds": 1.0}
    first = [{"at": at, "model": "one", "placement": "one@cpu", "milliseconds": ms} for at, ms in results]
    facts = {"placements": [placement], "streams": [stream], "first_results": first, "first_sound_alarm_ms": 350.0}
    return json_of({"object": "status", "status": "ready", **facts})


def registry_model(name: str, task: str = "speech", **facts: object) -> dict[str, object]:
    """A model of `/v1/registry`."""
    known = {
        "about": f"The model {name}.", "engine": "an_engine", "repository": f"org/{name}", "revision": None,
        "licence": "MIT", "parameters": "9M", "languages": ["en"], "hardware": ["cpu"], "size_bytes": 40_000_000,
        "verified": True, "installed": False, "served": False, "trial": None, "clones": False, "addition": None,
    }  # fmt: skip
    return {"id": name, "object": "registry.model", "task": task, **known, **facts}


def addition(
    state: str, received: int = 0, total: int | None = 40_000_000, cause: str | None = None
) -> dict[str, object]:
    """How far the addition of a model is."""
    return {"state": state, "received_bytes": received, "total_bytes": total, "cause": cause}


def list_of(*entries: dict[str, object]) -> Answer:
    return json_of({"object": "list", "data": entries})


def failure(message: str, status: int = 400, code: str | None = None) -> Answer:
    return Answer([json.dumps({"error": {"message": message, "code": code}}).encode()], status=status)


class ScriptedService:
    """Serves the page from the checkout, and to each request of it the next answer for its method and address.

    The last answer for an address is also the answer to all later requests.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.asked: list[Asked] = []
        self._answers: dict[str, list[Answer]] = {}
        self._lock = threading.Lock()
        self.answer("GET /readyz", json_of({}))
        self.answer("GET /v1/models", list_of(*MODELS))
        self.answer("GET /v1/registry", list_of())
        self.answer("GET /v1/status", status_of())
        self.answer("GET /v1/audio/voices", own_voices_of())
        for name in ("one", "two"):
            self.answer(f"GET /v1/audio/voices?model={name}", voices_of(f"{name}-a", f"{name}-b"))

    def answer(self, request: str, *answers: Answer) -> None:
        """What the next requests of a method and an address, with its query or for any query, get."""
        with self._lock:
            self._answers[request] = list(answers)

    def take(self, asked: Asked) -> Answer:
        """The answer to a request."""
        with self._lock:
            self.asked.append(asked)
            exact, any_query = f"{asked.method} {asked.path}?{asked.query}", f"{asked.method} {asked.path}"
            waiting = self._answers.get(exact) or self._answers.get(any_query)
            if waiting is None:
                return _file(asked.path)
            return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    def asked_for(self, path: str, method: str = "POST") -> list[Asked]:
        """The requests that came for a path."""
        with self._lock:
            return [asked for asked in self.asked if (asked.method, asked.path) == (method, path)]

    def bodies(self, path: str) -> list[Any]:
        """The JSON of the requests that came for a path."""
        return [json.loads(asked.body) for asked in self.asked_for(path)]


def _file(path: str) -> Answer:
    file = PAGE / ("index.html" if path == "/" else path.removeprefix("/page/"))
    if not file.is_file():
        return failure(f"Nothing is at {path}.", 404)
    return Answer([file.read_bytes()], KINDS.get(file.suffix, "application/octet-stream"), headers=PAGE_HEADERS)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments: Any, service: ScriptedService) -> None:
        self._service = service
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self._reply()

    def do_POST(self) -> None:
        self._reply()

    def do_DELETE(self) -> None:
        self._reply()

    def log_message(self, *_: object) -> None:
        """Nothing: the browser's side is what a test looks at."""

    def _reply(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        key = self.headers.get("authorization", "").removeprefix("Bearer ")
        answer = self._service.take(Asked(self.command, url.path, url.query, body, key))
        with suppress(ConnectionError):  # the page no longer wants it
            self._send(answer)

    def _send(self, answer: Answer) -> None:
        begun = False
        for part in answer.parts:
            if isinstance(part, threading.Event):
                part.wait(MOST_WAIT_S)
                continue
            if not begun:
                self._begin(answer)
                begun = True
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        if not begun:
            self._begin(answer)
        if answer.broken:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _begin(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {"content-type": answer.kind, **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


@contextmanager
def scripted_service() -> Iterator[ScriptedService]:
    """A running scripted service."""
    server = _Server(("127.0.0.1", 0), BaseHTTPRequestHandler)
    service = ScriptedService(server.server_port)
    server.RequestHandlerClass = partial(_Handler, service=service)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
