"""The load generator: clients over real HTTP, each with its own connection, that record when their audio arrives.

It uses raw asyncio streams, so that a time stamp is taken when the bytes arrive and not when a library passes them on.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deployments.errors import fail
from serve_app.bench.running_service import RunningProgram
from serve_app.gateway.speech.pacing import ListenerClock

SAMPLE_RATE = 24_000
BYTES_PER_SECOND = 2 * SAMPLE_RATE
"""Bytes of `pcm` for a second of audio, for the models that are measured here: 16-bit mono."""
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
TIMEOUT_S = 120.0
REFUSED = 429
RETRY_S = 0.05
"""Shorter than `Retry-After`, so that capacity is measured with a full queue."""


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """One request for speech. Measured requests have different seeds, because the service caches audio."""

    model: str
    text: str
    seed: int
    pacing: str = "fast"
    key: str = ""
    """The API key; empty for none."""

    @property
    def body(self) -> bytes:
        """The JSON body."""
        facts = {"model": self.model, "input": self.text, "seed": self.seed, "pacing": self.pacing}
        facts |= {"response_format": "pcm"}
        return json.dumps(facts).encode()


@dataclass(slots=True)
class StreamResult:
    """The result of a request. Times are in seconds; `first_s` counts from when the request was due to be sent."""

    ask: StreamRequest
    status: int = 0
    error: str = ""
    due_s: float = 0.0
    """When the request was due to be sent, on the monotonic clock."""
    late_s: float = 0.0
    """How much later it was sent: if this is long, the load generator was too slow."""
    answered_s: float | None = None
    """The wait for the status and the headers, from when the request was sent."""
    first_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    listener: ListenerClock = field(default_factory=ListenerClock)
    pcm: bytearray = field(default_factory=bytearray)
    ended_s: float = 0.0
    most_ahead_s: float = 0.0
    """The most seconds of audio that the player had in advance."""
    placement: str = ""
    """The placement that answered, as `<model>@<class>`."""
    retry_after_s: float | None = None
    """When a refused request is worth another try, as the service says."""

    @property
    def complete(self) -> bool:
        """Whether all audio arrived."""
        return self.status == 200 and not self.error and bool(self.pcm)

    @property
    def good(self) -> bool:
        """Whether all audio arrived before its player needed it."""
        return self.complete and self.listener.underruns == 0

    @property
    def audio_seconds(self) -> float:
        """The seconds of audio that arrived."""
        return len(self.pcm) / BYTES_PER_SECOND


async def listen(
    service: RunningProgram,
    ask: StreamRequest,
    *,
    leave_after_chunks: int | None = None,
    due_s: float | None = None,
    connection: Connection | None = None,
) -> StreamResult:
    """Sends a request and reads its audio to the end, or disconnects after `leave_after_chunks`. Errors are in the result.

    The wait for the first sound counts from `due_s` on the monotonic clock, or from now. `connection` is the connection to
    use; without it, a new one is opened.
    """
    due = time.monotonic() if due_s is None else due_s
    heard = StreamResult(ask, due_s=due)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await _listen(service, heard, due, leave_after_chunks, connection)
    except (OSError, EOFError, TimeoutError, ValueError) as error:
        heard.error = f"{type(error).__name__}: {error}"
    heard.ended_s = time.monotonic()
    return heard


async def _listen(
    service: RunningProgram,
    heard: StreamResult,
    due: float,
    leave_after_chunks: int | None,
    connection: Connection | None,
) -> None:
    reader, writer = connection or await asyncio.open_connection(service.host, service.port)
    try:
        sent_s = time.monotonic()
        heard.late_s = sent_s - due
        head = _head(service, "POST", "/v1/audio/speech", len(heard.ask.body), heard.ask.key)
        writer.write(head + heard.ask.body)
        heard.status, headers = await status_of(reader)
        heard.answered_s = time.monotonic() - sent_s
        if heard.status != 200:
            heard.retry_after_s = float(headers["retry-after"]) if "retry-after" in headers else None
            return
        heard.placement = headers.get("x-motet-placement", "")
        if "chunked" not in headers.get("transfer-encoding", ""):
            raise ValueError("the answer is not streamed")
        last = due
        async for data in chunks(reader):
            now = time.monotonic()
            _note(heard, data, now, last, due)
            last = now
            if leave_after_chunks is not None and len(heard.gaps_s) + 1 >= leave_after_chunks:
                return
    finally:
        writer.transport.abort()


def _note(heard: StreamResult, data: bytes, now: float, last: float, due: float) -> None:
    if heard.first_s is None:
        heard.first_s = now - due
    else:
        heard.gaps_s.append(now - last)
    heard.listener.send(len(data) / BYTES_PER_SECOND, now)
    heard.most_ahead_s = max(heard.most_ahead_s, heard.listener.buffered_seconds(now))
    heard.pcm += data


def _head(service: RunningProgram, method: str, path: str, length: int, key: str = "") -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {service.host}:{service.port}",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        "Connection: close",
        *([f"Authorization: Bearer {key}"] if key else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


async def status_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """The status and the headers of a response."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().lower().split("\r\n")
    return int(first.split(" ", 2)[1]), dict(line.split(": ", 1) for line in lines if ": " in line)


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The chunks of a chunked body (RFC 9112, section 7.1). Raises `EOFError` for an incomplete body."""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)


async def ready_report(service: RunningProgram) -> dict[str, Any]:
    """The report of `/readyz`. Raises `MotetError` if the service is not ready."""
    reader, writer = await asyncio.open_connection(service.host, service.port)
    try:
        writer.write(_head(service, "GET", "/readyz", 0))
        async with asyncio.timeout(TIMEOUT_S):
            answer = await reader.read()
    finally:
        writer.transport.abort()
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise fail("unavailable", f"The service is not ready: {body[:300].decode(errors='replace')}")
    report: dict[str, Any] = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])
    return report


async def steps_of(service: RunningProgram, model: str) -> dict[str, Any]:
    """The step counters of a model's replica."""
    counts: dict[str, Any] = (await ready_report(service))["models"][model]["steps"]
    return counts


async def all_at_once(
    service: RunningProgram, asks: Sequence[StreamRequest], *, apart_s: float = 0.0
) -> list[StreamResult]:
    """The results of all requests, each started `apart_s` after the one before it."""

    async def one(position: int, ask: StreamRequest) -> StreamResult:
        await asyncio.sleep(position * apart_s)
        return await listen(service, ask)

    return list(await asyncio.gather(*(one(position, ask) for position, ask in enumerate(asks))))


def arrival_times(count: int, per_second: float, seed: int) -> list[float]:
    """When requests of independent clients (Poisson) arrive, in seconds from the start."""
    waits = np.random.default_rng(seed).exponential(1 / per_second, count)
    times: list[float] = np.cumsum(waits).tolist()
    return times


async def open_loop(
    service: RunningProgram, asks: Sequence[StreamRequest], per_second: float, seed: int
) -> list[StreamResult]:
    """The results of requests that arrive at random (Poisson), independent of earlier answers."""
    return await arrivals(service, list(zip(arrival_times(len(asks), per_second, seed), asks, strict=True)))


async def arrivals(service: RunningProgram, asks: Sequence[tuple[float, StreamRequest]]) -> list[StreamResult]:
    """The results of requests that arrive at given times, in seconds from now and in order, whatever became of earlier ones.
    Waits count from these times, also if a request is sent late (no coordinated omission)."""
    began = time.monotonic()
    tasks = []
    for at_s, ask in asks:
        due = began + at_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(listen(service, ask, due_s=due)))
    return list(await asyncio.gather(*tasks))


async def closed_loop(
    service: RunningProgram,
    clients: int,
    seconds: float,
    next_ask: Callable[[], StreamRequest],
    *,
    hear_out: bool = False,
    apart_s: float = 0.0,
) -> list[StreamResult]:
    """The results of `clients` that send a request after each answer, or with `hear_out` after its audio was played.

    The first requests start `apart_s` after each other, the last ones after `seconds` at most; all are read to the end. A
    client that is refused tries again, and the wait for its first sound counts from its first attempt.
    """
    until = time.monotonic() + seconds

    async def client(position: int) -> list[StreamResult]:
        await asyncio.sleep(position * apart_s)
        done, due = list[StreamResult](), time.monotonic()
        while due < until:
            done.append(heard := await listen(service, next_ask(), due_s=due))
            if heard.status == REFUSED and time.monotonic() < until:
                await asyncio.sleep(RETRY_S)
                continue
            if hear_out:
                lasts = max(0.0, heard.listener.buffered_seconds(time.monotonic()))
                await asyncio.sleep(min(lasts, max(0.0, until - time.monotonic())))
            due = time.monotonic()
        return done

    return [heard for done in await asyncio.gather(*(client(n) for n in range(clients))) for heard in done]


def complete(results: Sequence[StreamResult]) -> Sequence[StreamResult]:
    """Returns `results`. Raises `MotetError` if one is incomplete, because the others would then measure something else."""
    for heard in results:
        if not heard.complete:
            raise fail("engine", f"a stream of {heard.ask.model} ended with status {heard.status}. {heard.error}")
    return results


@dataclass(frozen=True, slots=True)
class LoadSummary:
    """The results of many requests. Times are in ms; rates are per second of the `seconds` that the load took."""

    asked: int
    completed: int
    good: int
    refused: int
    failed: int
    underruns: int
    first_ms: tuple[float, float, float]
    gap_p99_ms: float
    audio_seconds: float
    seconds: float

    @property
    def goodput(self) -> float:
        """Streams without an underrun, per second."""
        return self.good / self.seconds

    def __str__(self) -> str:
        p50, p95, p99 = self.first_ms
        return (
            f"{self.completed} of {self.asked} streams in {self.seconds:.1f} s, {self.refused} refused, {self.failed} "
            f"failed, {self.underruns} underruns, first sound p50/p95/p99 {p50:.0f}/{p95:.0f}/{p99:.0f} ms, "
            f"between chunks p99 {self.gap_p99_ms:.0f} ms, goodput {self.goodput:.2f}/s"
        )


def summary(results: Sequence[StreamResult], started_s: float) -> LoadSummary:
    """The summary of some results. Quantiles of no values are NaN."""
    firsts = [heard.first_s * 1000 for heard in results if heard.first_s is not None]
    gaps = [gap * 1000 for heard in results for gap in heard.gaps_s]
    refused = sum(heard.status == REFUSED for heard in results)
    completed = sum(heard.complete for heard in results)
    p50, p95, p99 = (quantile(firsts, share) for share in (0.5, 0.95, 0.99))
    return LoadSummary(
        asked=len(results),
        completed=completed,
        good=sum(heard.good for heard in results),
        refused=refused,
        failed=len(results) - completed - refused,
        underruns=sum(heard.listener.underruns for heard in results),
        first_ms=(p50, p95, p99),
        gap_p99_ms=quantile(gaps, 0.99),
        audio_seconds=sum(heard.audio_seconds for heard in results),
        seconds=max(heard.ended_s for heard in results) - started_s,
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The interpolated quantile; NaN for no values."""
    return float(np.quantile(values, share)) if values else float("nan")
