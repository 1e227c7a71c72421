"""Batches through a live service's endpoint instead of engines of our own. The service decides when there is room."""

from __future__ import annotations

import base64
import io
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any
from zipfile import ZipFile

import httpx

from cluster.bulk.job import BulkJob, SeparationOrder, SpeechOrder, TranscriptionOrder, seed_of
from cluster.bulk.plan import Batch, WorkItem
from cluster.bulk.rendering import TRIED_AGAIN
from cluster.bulk.results import Outcome, Result, Timing, digest_of
from cluster.bulk.rows import read_recording
from cluster.bulk.workers import Made, made_of
from deployments.audio.decode import Decoder
from deployments.engines.base import FinishReason
from deployments.errors import Failure, Kind, MotetError, as_failure, fail

BUSY = 429
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
KINDS: Mapping[int, Kind] = {
    401: "unauthorized",
    403: "unauthorized",
    404: "not_found",
    408: "timeout",
    413: "too_large",
}
HOURS_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Service:
    """A live service: its address, such as http://127.0.0.1:8000, and the key to it if it asks for one.

    `sleep` and `clock` (seconds) are passed in by tests.
    """

    url: str
    key: str | None
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    transport: httpx.BaseTransport | None = None
    headers: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        object.__setattr__(self, "headers", headers)


def render_on_service(batches: Sequence[Batch], job: BulkJob, service: Service) -> Iterator[Made]:
    """Each batch as it is finished, in any order; `served_in_flight` of their items are asked for at once.

    Raises `MotetError` when the service cannot be reached at all, or stays busy for longer than `served_patience_s`.
    """
    client = httpx.Client(
        base_url=service.url,
        headers=dict(service.headers),
        timeout=job.bulk.served_timeout_s,
        transport=service.transport,
    )
    width = job.bulk.served_in_flight
    with client, ThreadPoolExecutor(width, thread_name_prefix="served") as pool:
        _check_reachable(client)
        renderer = _Served(client, job, service)
        # As many batches as requests: each keeps one request under way.
        running: set[Future[Made]] = set()
        for batch in batches:
            running.add(pool.submit(_made, batch, renderer, job.model.model))
            while len(running) >= width:
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                yield from _results(ended)
        yield from _results(wait(running).done)


def _results(ended: set[Future[Made]]) -> Iterator[Made]:
    """What was made comes before what ends the job."""
    for future in sorted(ended, key=lambda future: future.exception() is not None):
        yield future.result()


def _check_reachable(client: httpx.Client) -> None:
    try:
        client.get("/livez")
    except httpx.HTTPError as error:
        raise fail("unavailable", f"{client.base_url} does not answer: {error}", "Start the service first.") from error


def _made(batch: Batch, renderer: _Served, model: str) -> Made:
    return made_of(batch.name, batch.items, [renderer.outcome(item) for item in batch.items], model)


class _Served:
    """Asks for one item after the other. Once the service was too busy for one of them, no others are asked for."""

    def __init__(self, client: httpx.Client, job: BulkJob, service: Service) -> None:
        self._client = client
        self._job = job
        self._service = service
        self._too_busy = threading.Event()
        self._ask = {"speech": self._speech, "transcription": self._transcription, "separation": self._separation}

    def outcome(self, item: WorkItem) -> Outcome:
        """What became of an item, after as many tries as the job allows. Raises `MotetError` (overloaded) when the service
        stays busy, which says nothing about the item: it is asked for again when the job goes on."""
        for attempt in range(self._job.bulk.retries + 1):
            try:
                return self._ask[self._job.order.task](item)
            except (MotetError, httpx.HTTPError) as error:
                failure = _failure(error)
            if failure.kind == "overloaded":
                self._too_busy.set()
                raise MotetError(failure)
            if failure.kind not in TRIED_AGAIN:
                break
            self._service.sleep(min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S))
        return failure

    def _speech(self, item: WorkItem) -> list[Result]:
        order = self._job.order
        assert isinstance(order, SpeechOrder)
        body = {
            "model": self._job.model.model,
            "input": item.text,
            "speed": order.speed,
            "seed": seed_of(item.key),
            "response_format": order.form,
            "stream_format": "sse",  # only events tell at the end how it went
        }
        voice = item.voice or order.voice
        spoken = _spoken(self._post("/v1/audio/speech", json=body | ({"voice": voice} if voice else {})))
        seconds, rate = _measured(spoken.audio) if order.form != "pcm" else (spoken.seconds, None)
        return [
            Result(
                seconds,
                item.text,
                audio=spoken.audio,
                format=order.form,
                sample_rate=rate,
                sha256=digest_of(spoken.audio),
                voice=voice,
                timings=spoken.timings(seconds),
                finish_reason=spoken.finish_reason,
            )
        ]

    def _transcription(self, item: WorkItem) -> list[Result]:
        order = self._job.order
        assert isinstance(order, TranscriptionOrder) and item.recording is not None
        fields: dict[str, Any] = {
            "model": self._job.model.model,
            "response_format": "verbose_json",
            "timestamp_granularities[]": "word" if order.word_times else "segment",
        }
        fields |= {name: value for name in ("language", "prompt") if (value := getattr(order, name)) is not None}
        heard = json.loads(self._upload("/v1/audio/transcriptions", item, fields))
        told = heard.get("words" if order.word_times else "segments") or []
        timings = tuple(Timing(t["start"], t["end"], str(t.get("word", t.get("text"))).strip()) for t in told)
        return [
            Result(
                float(heard["duration"]),
                heard["text"],
                sha256=item.recording.digest,
                language=heard.get("language"),
                timings=timings,
            )
        ]

    def _separation(self, item: WorkItem) -> list[Result]:
        order = self._job.order
        assert isinstance(order, SeparationOrder) and item.recording is not None
        cut = order.separation
        fields: dict[str, Any] = {
            "model": self._job.model.model,
            "response_format": order.form,
            "chunk_seconds": str(cut.chunk_seconds),
            "overlap_seconds": str(cut.overlap_seconds),
        }
        if order.stems:
            fields["stems"] = ",".join(order.stems)
        data = self._upload("/v1/audio/separations", item, fields)
        if len(order.stems) == 1:
            return [_stem(order.stems[0], data, order)]
        with ZipFile(io.BytesIO(data)) as archive:
            return [_stem(name.rpartition(".")[0], archive.read(name), order) for name in archive.namelist()]

    def _upload(self, path: str, item: WorkItem, fields: Mapping[str, Any]) -> bytes:
        assert item.recording is not None
        return self._post(path, data=dict(fields), files={"file": ("recording", read_recording(item.recording))})

    def _post(self, path: str, **content: Any) -> bytes:
        """Waits while the service is busy, as long as it says. Raises `MotetError`, or `httpx.HTTPError`."""
        patience_s = self._job.bulk.served_patience_s
        deadline = self._service.clock() + patience_s
        while not self._too_busy.is_set():
            answer = self._client.post(path, **content)
            if answer.is_success:
                return answer.content
            if answer.status_code != BUSY:
                raise _refusal(answer)
            pause_s = _retry_after(answer)
            if self._service.clock() + pause_s > deadline:
                break
            self._service.sleep(pause_s)
        cause = f"The service was too busy for {patience_s:g} s."
        raise fail("overloaded", cause, "Run the command again later: it goes on. Or raise bulk.served_patience_s.")


@dataclass(frozen=True, slots=True)
class _Spoken:
    """What speech events told: the sound, its seconds, where each piece of the text begins, and why the model ended."""

    audio: bytes
    seconds: float
    pieces: Sequence[Mapping[str, Any]]
    finish_reason: FinishReason

    def timings(self, seconds: float) -> tuple[Timing, ...]:
        """When each piece is said; the last one until the end of the sound."""
        starts = [float(piece["start_seconds"]) for piece in self.pieces]
        ends = [*starts[1:], seconds]
        told = zip(starts, ends, self.pieces, strict=True)
        return tuple(Timing(start, end, piece["text"]) for start, end, piece in told)


def _spoken(answer: bytes) -> _Spoken:
    """Reads an answer of speech events. Raises `MotetError` where it broke off."""
    lines = answer.decode().split("\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    done = events[-1] if events else {}
    if done.get("type") != "speech.audio.done":
        why = done.get("error", {}).get("message", "its last event is missing")
        raise fail("engine", f"The service broke off: {why}")
    return _Spoken(
        audio=b"".join(base64.b64decode(event.get("audio", "")) for event in events),
        seconds=float(done["usage"]["audio_seconds"]),
        pieces=[piece for event in events for piece in event.get("pieces", ())],
        finish_reason=done["finish_reason"],
    )


def _stem(name: str, data: bytes, order: SeparationOrder) -> Result:
    seconds, rate = _measured(data) if order.form != "pcm" else (0.0, None)
    return Result(seconds, stem=name, audio=data, format=order.form, sample_rate=rate, sha256=digest_of(data))


def _measured(data: bytes) -> tuple[float, int]:
    """Seconds and rate of encoded sound."""
    decoder = Decoder(io.BytesIO(data), mono=True, max_seconds=HOURS_S)
    try:
        return sum(block.shape[1] for block in decoder) / decoder.info.sample_rate, decoder.info.sample_rate
    finally:
        decoder.close()


def _retry_after(answer: httpx.Response) -> float:
    """Seconds, as the service says; what it does not say in seconds is a short pause."""
    try:
        asked_s = float(answer.headers.get("Retry-After", FIRST_PAUSE_S))
    except ValueError:
        return FIRST_PAUSE_S
    return max(asked_s, FIRST_PAUSE_S) if math.isfinite(asked_s) else FIRST_PAUSE_S


def _refusal(answer: httpx.Response) -> MotetError:
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = answer.text[:200] or answer.reason_phrase
    kind: Kind = "unavailable" if answer.status_code >= 500 else KINDS.get(answer.status_code, "invalid")
    return fail(kind, f"The service answered {answer.status_code}: {message}")


def _failure(error: Exception) -> Failure:
    if isinstance(error, httpx.HTTPError):
        return Failure("unavailable", f"The service did not answer: {type(error).__name__}: {error}")
    return as_failure(error)
