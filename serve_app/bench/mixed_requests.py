"""One request of each kind that a service answers, unlike all others of its kind, and whether its answer is right.

A request fails if its answer is refused, breaks off, or belongs to another request: each recording says one of a few
sentences, and a transcript must have the words of its own.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import httpx
import numpy as np
import soxr
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from deployments.audio.formats import FORMATS
from deployments.engines.protocols import Samples
from deployments.errors import fail
from deployments.text.sample_sentences import SENTENCES
from deployments.text.word_error_rate import errors
from serve_app.bench.hearing_corpus import CORPUS_RATE
from serve_app.bench.http_client import form_of
from serve_app.bench.live_client import COMPLETED, FAILED, OPEN_TIMEOUT_S
from serve_app.bench.live_microphone import messages_of
from serve_app.bench.local_engines import wav_of
from serve_app.bench.running_service import RunningProgram

Kind = Literal["speech", "simulated", "transcription", "separation", "live", "job", "events", "session", "leaver"]
"""`events` is speech as server-sent events, `session` a text that arrives over a WebSocket, and `leaver` a client that leaves
after the first sound."""

SAID = SENTENCES[:3]
"""What the recordings say. They are short, so that a wait is a wait for the service and not for a model."""
SPEECH_RATE = 24_000
SAME_WORDS = 0.5
"""A transcript with at most this share of wrong words is of its own recording: the sentences have no word in common."""
TIMEOUT_S = 90.0
NOISE = 2e-4
"""Level of the noise that makes each recording another one."""


@dataclass(frozen=True, slots=True)
class MixedModels:
    """The models that the requests name: a voice, a simulated one, one that transcribes, and one that separates. `stem` is
    what is asked of that."""

    speech: str
    simulated: str
    transcription: str
    separation: str
    stem: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt of a request ended, `wait_s` after it began: with the first sound, the whole answer of a recording, or
    what went `wrong`. `retry_after_s` is the service's advice."""

    wait_s: float
    wrong: str = ""
    retry_after_s: float | None = None


class WrongAnswerError(Exception):
    """The service answered, and not as it should."""

    def __init__(self, wrong: str, retry_after_s: float | None = None) -> None:
        super().__init__(wrong)
        self.wrong = wrong
        self.retry_after_s = retry_after_s


class MixedRequests:
    """Requests to a service. Use it as a context: it holds an HTTP client, which opens a connection for each request."""

    def __init__(self, service: RunningProgram, models: MixedModels, clips: Mapping[str, Samples], run: str) -> None:
        """`clips` are recordings, mono (n,) at `CORPUS_RATE`, by what they say. `run` makes the keys of its jobs its own."""
        self._service = service
        self._models = models
        self._clips = tuple(clips.items())
        self._run = run
        self.http = httpx.AsyncClient(
            base_url=f"http://{service.host}:{service.port}",
            timeout=TIMEOUT_S,
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )
        self.jobs: dict[str, set[str]] = {}
        """The ids of the accepted jobs, by their idempotency key: more than one is a job that was made twice."""
        self._ask: Mapping[Kind, Callable[[int], Awaitable[float]]] = {
            "speech": lambda number: self._speech(self._models.speech, number),
            "simulated": lambda number: self._speech(self._models.simulated, number),
            "transcription": self._transcription,
            "separation": self._separation,
            "live": self._live,
            "job": self._job,
            "events": self._events,
            "session": self._session,
            "leaver": self._leaver,
        }

    async def __aenter__(self) -> MixedRequests:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def ask(self, kind: Kind, number: int) -> Attempt:
        """Sends the `number`-th request of a kind; a second attempt of a request has the same number."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answered_s = await self._ask[kind](number)
        except WrongAnswerError as error:
            return Attempt(time.monotonic() - began_s, error.wrong, error.retry_after_s)
        except (httpx.HTTPError, WebSocketException, OSError, TimeoutError) as error:
            return Attempt(time.monotonic() - began_s, type(error).__name__)
        return Attempt(answered_s - began_s)

    async def _speech(self, model: str, number: int) -> float:
        body = {"model": model, "input": _text(number), "seed": number, "response_format": "pcm"}
        first_s, heard = 0.0, 0
        async with self.http.stream("POST", "/v1/audio/speech", json=body) as answer:
            await _ensure_good(answer)
            async for data in answer.aiter_raw():
                first_s = first_s or time.monotonic()
                heard += len(data)
        if heard < SPEECH_RATE:  # half a second of 16-bit audio
            raise WrongAnswerError(f"only {heard} bytes of speech")
        return first_s

    async def _events(self, number: int) -> float:
        """Speech as events, in each of the formats in turn."""
        formats = tuple(FORMATS)
        body = {"model": self._models.speech, "input": _text(number), "seed": number, "stream_format": "sse"}
        body["response_format"] = formats[number % len(formats)]
        first_s, last = 0.0, ""
        async with self.http.stream("POST", "/v1/audio/speech", json=body) as answer:
            await _ensure_good(answer)
            async for line in answer.aiter_lines():
                first_s = first_s or time.monotonic()
                last = line if line.startswith("data:") else last
        if "speech.audio.done" not in last:
            raise WrongAnswerError("events without an end")
        return first_s

    async def _session(self, number: int) -> float:
        """A text that arrives in two parts."""
        address = f"ws://{self._service.host}:{self._service.port}/v1/audio/speech/stream"
        configuration = {
            "type": "session.config",
            "model": self._models.speech,
            "response_format": "pcm",
            "seed": number,
        }
        first_s = 0.0
        async with connect(address, compression=None, open_timeout=OPEN_TIMEOUT_S, proxy=None) as socket:
            await socket.send(json.dumps(configuration))
            for text in (_text(number), " It goes on."):
                await socket.send(json.dumps({"type": "input.text", "text": text}))
            await socket.send(json.dumps({"type": "input.done"}))
            async for message in socket:
                if isinstance(message, bytes):
                    first_s = first_s or time.monotonic()
                elif (type_ := json.loads(message)["type"]) == "session.done":
                    return first_s
                elif type_ == "error":
                    raise WrongAnswerError("session: error")
        raise WrongAnswerError("a session without an end")

    async def _leaver(self, number: int) -> float:
        body = {"model": self._models.speech, "input": _text(number) * 5, "seed": number, "response_format": "pcm"}
        async with self.http.stream("POST", "/v1/audio/speech", json=body) as answer:
            await _ensure_good(answer)
            await anext(answer.aiter_raw())
            return time.monotonic()

    async def _transcription(self, number: int) -> float:
        said, recording = self._recording(number)
        fields = {"model": self._models.transcription, "response_format": "json", "language": "en"}
        answer = await self._sent("/v1/audio/transcriptions", recording, fields)
        _ensure_says(answer.json()["text"], said)
        return time.monotonic()

    async def _separation(self, number: int) -> float:
        _, recording = self._recording(number)
        fields = {"model": self._models.separation, "stems": self._models.stem, "response_format": "wav"}
        answer = await self._sent("/v1/audio/separations", recording, fields)
        if len(answer.content) < len(recording) // 2:
            raise WrongAnswerError(f"{len(answer.content)} bytes for a recording of {len(recording)}")
        return time.monotonic()

    async def _live(self, number: int) -> float:
        """A turn that is sent at once. Its wait is the time from its end to its text."""
        said, samples = self._clip(number)
        address = f"ws://{self._service.host}:{self._service.port}/v1/realtime?intent=transcription"
        settings = {"model": self._models.transcription, "language": "en"}
        session = {"audio": {"input": {"transcription": settings, "turn_detection": None}}, "type": "transcription"}
        async with connect(address, compression=None, open_timeout=OPEN_TIMEOUT_S, proxy=None) as socket:
            await socket.send(json.dumps({"type": "session.update", "session": session}))
            for message in messages_of(np.asarray(samples * 32767, np.int16)):
                await socket.send(message)
            await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
            while (facts := json.loads(await socket.recv()))["type"] != COMPLETED:
                if facts["type"] in (FAILED, "error"):
                    error = facts["error"]
                    raise WrongAnswerError(f"live: {error.get('code')}", error.get("retry_after"))
        _ensure_says(facts["transcript"], said)
        return time.monotonic()

    async def _job(self, number: int) -> float:
        """A job that transcribes. It counts as answered once it is accepted."""
        _, recording = self._recording(number)
        fields = {"endpoint": "/v1/audio/transcriptions", "model": self._models.transcription, "language": "en"}
        key = f"{self._run}-{number}"
        answer = await self._sent("/v1/jobs", recording, fields, {"idempotency-key": key})
        self.jobs.setdefault(key, set()).add(str(answer.json()["id"]))
        return time.monotonic()

    async def _sent(
        self, path: str, recording: bytes, fields: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        body, content_type = form_of(recording, fields)
        answer = await self.http.post(path, content=body, headers={"content-type": content_type, **(headers or {})})
        await _ensure_good(answer)
        return answer

    def _clip(self, number: int) -> tuple[str, Samples]:
        said, samples = self._clips[number % len(self._clips)]
        noise = np.random.default_rng(number).normal(0.0, NOISE, len(samples))
        return said, np.clip(samples + noise, -1.0, 1.0).astype(np.float32)

    def _recording(self, number: int) -> tuple[str, bytes]:
        said, samples = self._clip(number)
        return said, wav_of(samples, CORPUS_RATE)


def spoken_clips(service: RunningProgram, model: str) -> dict[str, Samples]:
    """Recordings of `SAID` by the service's own voice. Raises `MotetError` if it does not speak."""
    clips = {}
    with httpx.Client(base_url=f"http://{service.host}:{service.port}", timeout=TIMEOUT_S, trust_env=False) as http:
        for text in SAID:
            body = {"model": model, "input": text, "response_format": "pcm", "seed": 0}
            answer = http.post("/v1/audio/speech", json=body)
            if not answer.is_success:
                raise fail("engine", f"The service does not speak: {answer.text[:300]}")
            sound = np.frombuffer(answer.content, "<i2").astype(np.float32) / 32768
            clips[text] = np.asarray(soxr.resample(sound, SPEECH_RATE, CORPUS_RATE), np.float32)
    return clips


async def _ensure_good(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    await answer.aread()
    advice = answer.headers.get("retry-after", "")
    raise WrongAnswerError(f"{answer.status_code} {_code(answer)}".strip(), float(advice) if advice.isdigit() else None)


def _code(answer: httpx.Response) -> str:
    try:
        facts: Any = answer.json()
        return str(facts["error"].get("code") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _ensure_says(heard: str, said: str) -> None:
    if errors([said], [heard]).rate > SAME_WORDS:
        raise WrongAnswerError(f"the words of another recording: {heard[:60]!r}")


def _text(number: int) -> str:
    return f"Sentence number {number} of many."
