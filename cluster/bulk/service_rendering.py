"""Renders batches with a live service instead of engines of the job. The service decides when it has room."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote
from zipfile import BadZipFile, ZipFile

import httpx

from cluster.bulk.job import BulkJob, BulkSeparationOrder, BulkSpeechOrder, BulkTranscriptionOrder, seed_of
from cluster.bulk.plan import Batch, WorkItem
from cluster.bulk.rendering import RETRIED_KINDS
from cluster.bulk.results import MILLI_DIGITS, Outcome, RowResult, digest_of, rounded_timing
from cluster.bulk.row import read_recording
from cluster.bulk.service_answers import (
    FIRST_PAUSE_S,
    GO_ON,
    AwayError,
    ServiceError,
    SpeechAnswer,
    not_asked_for,
    refusal_of,
    speech_answer,
)
from cluster.bulk.sound import WITH_LENGTH, length_of, with_length
from cluster.bulk.workers import RenderedBatch, rendered_batch
from deployments.audio.formats import FORMATS, AudioFormat
from deployments.errors import Failure, Kind, MotetError, as_failure
from deployments.tasks.separation import GAPS_FILE
from deployments.text.languages import code_of

LONGEST_PAUSE_S = 30.0
NOBODY_THERE = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)
"""Errors of a request that did not reach the service."""
MISREAD = (ValueError, LookupError, TypeError, AttributeError, BadZipFile)
"""What reading an unexpected answer raises."""

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class ServiceClient:
    """A live service: its address, such as http://127.0.0.1:8000, and its API key if it needs one. The address may end in
    /v1, as OpenAI's clients take it.

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
        object.__setattr__(self, "url", self.url.rstrip("/").removesuffix("/v1").rstrip("/"))

    def client(self, timeout_s: float) -> httpx.Client:
        """An HTTP client of the service. Raises `MotetError` (invalid) if the address is not a URL."""
        try:
            return httpx.Client(
                base_url=self.url, headers=dict(self.headers), timeout=timeout_s, transport=self.transport
            )
        except httpx.InvalidURL as error:
            cause = f"{self.url!r} is not a URL: {error}."
            raise MotetError(Failure("invalid", cause, "Give one such as http://127.0.0.1:8000.")) from error


def render_on_service(batches: Sequence[Batch], job: BulkJob, service: ServiceClient) -> Iterator[RenderedBatch]:
    """Each batch as it is finished, in any order. `served_in_flight` requests run at the same time.

    Raises `MotetError` for an error that no row causes: the service is unreachable, is not a Motet service, does not accept
    the key or the model, or stays busy or unreachable for longer than `served_patience_s`.
    """
    width = job.bulk.served_in_flight
    with (
        service.client(job.bulk.served_timeout_s) as client,
        ThreadPoolExecutor(width, thread_name_prefix="served") as pool,
    ):
        renderer = _ServiceRenderer(client, job, service)
        renderer.look()
        # As many batches as requests: each batch has one request in flight.
        running: set[Future[RenderedBatch]] = set()
        for batch in batches:
            running.add(pool.submit(_made, batch, renderer, job.model.model))
            while len(running) >= width:
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                yield from _results(ended)
        yield from _results(wait(running).done)


def _results(ended: set[Future[RenderedBatch]]) -> Iterator[RenderedBatch]:
    """Finished batches first, then the error that ends the job."""
    for future in sorted(ended, key=lambda future: future.exception() is not None):
        yield future.result()


def _made(batch: Batch, renderer: _ServiceRenderer, model: str) -> RenderedBatch:
    return rendered_batch(batch.name, batch.items, [renderer.outcome(item) for item in batch.items], model)


class _ServiceRenderer:
    """Requests one item after the other. After an error that ends the job, it requests no more."""

    def __init__(self, client: httpx.Client, job: BulkJob, service: ServiceClient) -> None:
        self._client = client
        self._job = job
        self._service = service
        self._lock = threading.Lock()
        self._end: ServiceError | None = None
        self._ask = {"speech": self._speech, "transcription": self._transcription, "separation": self._separation}

    def look(self) -> None:
        """Raises `MotetError` unless the service answers, accepts the key, and has the model."""
        path = f"/v1/models/{quote(self._job.model.model)}"
        try:
            answer = self._client.get(path)
        except httpx.HTTPError as error:
            cause = f"{self._client.base_url} does not answer: {error}."
            raise ServiceError(Failure("unavailable", cause, f"Start the service first. {GO_ON}")) from error
        _read(answer, lambda answer: answer.json()["id"])

    def outcome(self, item: WorkItem) -> Outcome:
        """The outcome of an item, after as many tries as the job allows. Raises `ServiceError` for an error that the item
        does not cause; the item is requested again when the job resumes."""
        try:
            return self._outcome(item)
        except ServiceError as error:
            self._ends(error)

    def _ends(self, error: ServiceError) -> NoReturn:
        """Raises the first error that ended the job: later ones follow from it."""
        with self._lock:
            self._end = self._end or error
        raise self._end

    def _outcome(self, item: WorkItem) -> Outcome:
        for attempt in range(self._job.bulk.retries + 1):
            if attempt:
                self._service.sleep(_pause(attempt - 1))
            broke = False
            try:
                return self._ask[self._job.order.task](item)
            except ServiceError:
                raise
            except httpx.HTTPError as error:
                failure, broke = _failure(error), True
            except MotetError as error:
                failure = error.failure
            except Exception as error:  # from reading the recording, or the answer
                failure = as_failure(error)
            if failure.kind not in RETRIED_KINDS:
                break
        if failure.code == "voice_not_found" and item.voice is None:
            raise ServiceError(failure)  # the job's own voice, which a local job checks before it begins
        if broke:
            self.look()  # the row caused it only if the service still answers
        return failure

    def _speech(self, item: WorkItem) -> list[RowResult]:
        order = self._job.order
        assert isinstance(order, BulkSpeechOrder)
        body: dict[str, Any] = {
            "model": self._job.model.model,
            "input": item.text,
            "input_type": item.input_type,
            "lexicon": dict(order.job_lexicon),
            "speed": order.speed,
            "seed": seed_of(item.key),
            "normalize": order.normalize.model_dump(),
            "response_format": order.form,
            "stream_format": "sse",  # only events have the finish reason
            "pacing": "fast",  # without a listener, nothing is concealed or spoken by the fallback voice
            **({"word_timestamps": True} if order.word_times else {}),
        }
        if order.verifier:
            body["verify"] = True
        voice = item.voice or order.voice
        chosen = {"voice": voice, "sample_rate": order.sample_rate, "loudness_lufs": order.loudness_lufs}
        body |= {name: value for name, value in chosen.items() if value is not None}
        spoken = self._post("/v1/audio/speech", speech_answer, json=body)
        sound = _spoken_sound(spoken, order.form)
        timings = spoken.timings(sound.seconds)
        return [
            replace(
                sound,
                text=item.text,
                voice=spoken.voice or voice,
                timings=timings,
                words=tuple(spoken.words) if order.word_times else None,
                finish_reason=spoken.finish_reason,
                quality=spoken.quality,
            )
        ]

    def _transcription(self, item: WorkItem) -> list[RowResult]:
        order = self._job.order
        assert isinstance(order, BulkTranscriptionOrder) and item.recording is not None
        digest = item.recording.digest
        fields: dict[str, Any] = {
            "model": self._job.model.model,
            "response_format": "verbose_json",
            "timestamp_granularities[]": "word" if order.word_times else "segment",
        }
        fields |= {name: value for name in ("language", "prompt") if (value := getattr(order, name)) is not None}

        def transcript_in(answer: httpx.Response) -> RowResult:
            transcript = answer.json()
            timed = transcript.get("words" if order.word_times else "segments") or []
            timings = tuple(rounded_timing(t["start"], t["end"], str(t.get("word", t.get("text")))) for t in timed)
            seconds, text = round(float(transcript["duration"]), MILLI_DIGITS), str(transcript["text"])
            language = code_of(transcript.get("language"))
            return RowResult(seconds, text, sha256=digest, language=language, timings=timings)

        return [self._upload("/v1/audio/transcriptions", item, fields, transcript_in)]

    def _separation(self, item: WorkItem) -> list[RowResult]:
        order = self._job.order
        assert isinstance(order, BulkSeparationOrder)
        cut = order.separation
        fields: dict[str, Any] = {
            "model": self._job.model.model,
            "response_format": FORMATS[order.form].wav or order.form,  # the header has the rate and the channels
            "chunk_seconds": str(cut.chunk_s),
            "overlap_seconds": str(cut.overlap_s),
        }
        if order.stems:
            fields["stems"] = ",".join(order.stems)
        stems = self._upload("/v1/audio/separations", item, fields, _stems_in)
        return [replace(_lasting(data, order.form), stem=name) for name, data in stems.items()]

    def _upload(
        self, path: str, item: WorkItem, fields: Mapping[str, Any], read: Callable[[httpx.Response], Read]
    ) -> Read:
        assert item.recording is not None
        files = {"file": ("recording", read_recording(item.recording))}
        return self._post(path, read, data=dict(fields), files=files)

    def _post(self, path: str, read: Callable[[httpx.Response], Read], **content: Any) -> Read:
        """Posts a request and reads its answer. Raises `MotetError`, or `httpx.HTTPError`."""
        return self._patiently(lambda: _read(self._client.post(path, **content), read))

    def _patiently(self, ask: Callable[[], Read]) -> Read:
        """Repeats a request while the service is busy or unreachable, after the pause that it asks for, for
        `served_patience_s` at most."""
        patience_s = self._job.bulk.served_patience_s
        deadline = self._service.clock() + patience_s
        attempt = 0
        while self._end is None:
            try:
                return ask()
            except AwayError as error:
                away = error.failure
            except NOBODY_THERE as error:
                away = _failure(error)
            pause_s = _pause_before(attempt, away)
            if self._service.clock() + pause_s > deadline:
                raise _stays_away(away, patience_s)
            self._service.sleep(pause_s)
            attempt += 1
        raise self._end


def _read(answer: httpx.Response, read: Callable[[httpx.Response], Read]) -> Read:
    """Reads an answer. Raises `ServiceError` for an unexpected one."""
    if not answer.is_success:
        raise refusal_of(answer)
    try:
        return read(answer)
    except MISREAD as error:
        raise not_asked_for(answer, f"{type(error).__name__}: {error}") from error


def _pause(attempt: int) -> float:
    """Seconds until the next try."""
    return float(min(FIRST_PAUSE_S * 2 ** min(attempt, 10), LONGEST_PAUSE_S))


def _pause_before(attempt: int, away: Failure) -> float:
    """Seconds until the next try. A busy service says when it has room; for an unreachable one the pauses grow."""
    asked_s = away.retry_after_s or FIRST_PAUSE_S
    return asked_s if away.kind == "overloaded" else max(asked_s, _pause(attempt))


def _stays_away(away: Failure, patience_s: float) -> ServiceError:
    what = "The service was too busy" if away.kind == "overloaded" else "The service was unreachable"
    cause = f"{what} for {patience_s:g} s. {away.cause}"
    return ServiceError(
        Failure(away.kind, cause, "Run the command again later to resume, or raise bulk.served_patience_s.")
    )


def _failure(error: httpx.HTTPError) -> Failure:
    kind: Kind = "timeout" if isinstance(error, httpx.TimeoutException) else "unavailable"
    return Failure(kind, f"The service did not answer: {type(error).__name__}: {error}")


# --- Sound


def _spoken_sound(spoken: SpeechAnswer, form: AudioFormat) -> RowResult:
    """The sound, its length and its rate. Only the service knows how long it was before a lossy codec."""
    if form in WITH_LENGTH:
        return _lasting(spoken.audio, form)
    rate, seconds = spoken.sample_rate, spoken.seconds
    size = FORMATS[form].sample_bytes
    if size is not None and rate is not None:
        seconds = len(spoken.audio) / size / rate
    return _sound(spoken.audio, form, seconds, rate)


def _lasting(data: bytes, form: AudioFormat) -> RowResult:
    """A sound with the length that its samples have. Samples without a header were requested as WAV, whose header has the
    rate."""
    size, info = length_of(data), FORMATS[form]
    if info.wav is not None and info.sample_bytes is not None:
        data = data[len(data) - size.samples * size.channels * info.sample_bytes :]
    elif form in WITH_LENGTH:
        data = with_length(data, form, size)
    # Ogg Opus says 48 kHz for every sound, whatever its rate was before.
    return _sound(data, form, size.seconds, None if form == "opus" else size.sample_rate)


def _sound(data: bytes, form: AudioFormat, seconds: float, rate: int | None) -> RowResult:
    return RowResult(seconds, audio=data, format=form, sample_rate=rate, sha256=digest_of(data))


def _stems_in(answer: httpx.Response) -> dict[str, bytes]:
    """Stems by name: one is a sound, several are a ZIP file. Raises `MotetError` (engine) for a separation with gaps, which a
    result cannot name, and ValueError and the like for anything else."""
    kind = answer.headers["content-type"]
    if kind.startswith("audio/"):
        return {answer.headers["x-motet-stems"]: answer.content}
    with ZipFile(io.BytesIO(answer.content)) as archive:
        if GAPS_FILE in archive.namelist():
            raise _with_gaps(json.loads(archive.read(GAPS_FILE)))
        return {name.rpartition(".")[0]: archive.read(name) for name in archive.namelist()}


def _with_gaps(gaps: Sequence[Mapping[str, float]]) -> MotetError:
    places = ", ".join(f"{gap['start']:g} to {gap['end']:g} s" for gap in gaps)
    cause = f"The service could not separate parts of the recording: {places}."
    return MotetError(Failure("engine", cause, "Run a job again with the rows that failed."))
