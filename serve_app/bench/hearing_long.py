"""A recording of hours: when its first text comes while it is still being uploaded, and how much memory it takes."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

from deployments.errors import fail
from serve_app.bench.frame import Figure, Sheet, at_most
from serve_app.bench.hearing_corpus import Corpus
from serve_app.bench.hearing_service import LONG_TIMEOUT_S, TWO_REPLICAS
from serve_app.bench.load import chunks, status_of
from serve_app.bench.memory_peaks import memory_peaks, title_of
from serve_app.bench.running_service import RunningProgram

SHORT_S = 120.0
BLOCK_BYTES = 64 * 1024
PACE = 30.0
"""Seconds of sound that the client sends in a second, after the first minute: less than the service can transcribe."""
FIRST, GROWTH = "first text after the first minute, {}", "growth of the largest process, {} over two minutes"


def figures(seconds: float) -> list[Figure]:
    """What is measured, with a long recording of `seconds`."""
    return [
        Figure(FIRST.format(_in_words(seconds)), "s", at_most(2)),
        Figure(GROWTH.format(_in_words(seconds)), "MB", at_most(150)),
    ]


def _in_words(seconds: float) -> str:
    return f"{seconds / 3600:g} hours" if seconds >= 3600 else f"{seconds / 60:g} minutes (two hours in the full run)"


def measure_long(sheet: Sheet, service: RunningProgram, corpus: Corpus, seconds: float) -> None:
    """Uploads two minutes, and then `seconds` of the recording, which begins again as often as needed."""
    with sheet.measuring(_in_words(seconds)):
        short, long = (_repeated(corpus, length) for length in (SHORT_S, seconds))
        with memory_peaks(service) as before:
            asyncio.run(_dictate(service, short, SHORT_S))
        with memory_peaks(service) as after:
            heard = asyncio.run(_dictate(service, long, seconds))
        sheet.put(
            FIRST.format(_in_words(seconds)),
            heard.first_text_s,
            f"{heard.seconds:.0f} s of sound in {heard.took_s:.0f} s, sent at {PACE:g} x real time",
        )
        growth = {process: peak - before.get(process, 0) for process, peak in after.items()}
        most = max(growth, key=lambda process: growth[process])
        note = f"{title_of(most)}: {before.get(most, 0) / 1e6:.0f} MB, then {after[most] / 1e6:.0f} MB; PSS, peaks"
        sheet.put(GROWTH.format(_in_words(seconds)), growth[most] / 1e6, note)


def _repeated(corpus: Corpus, seconds: float) -> bytes:
    """The recording as MP3, as often as it takes for `seconds`, cut there by its size: the bit rate is constant."""
    times = int(seconds / corpus.seconds) + 1
    data = corpus.encoded("mp3", times)
    return data[: int(len(data) * seconds / (corpus.seconds * times))]


# The client


@dataclass(slots=True)
class Dictation:
    """What the client of a streamed transcription saw. `first_text_s` counts from when the first minute was sent."""

    first_text_s: float = float("inf")
    took_s: float = 0.0
    seconds: float = 0.0


async def _dictate(service: RunningProgram, recording: bytes, seconds: float) -> Dictation:
    """Sends the first minute, and goes on at a pace while it reads the text that comes."""
    reader, writer = await asyncio.open_connection(service.host, service.port)
    first_minute_sent = asyncio.get_running_loop().create_future()
    started = time.monotonic()
    sender = asyncio.create_task(_send(writer, service, recording, seconds, first_minute_sent))
    try:
        async with asyncio.timeout(LONG_TIMEOUT_S):
            heard = await _read(reader, first_minute_sent)  # also says why the service stopped to read
    finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
        writer.transport.abort()
    heard.took_s = time.monotonic() - started
    return heard


async def _send(
    writer: asyncio.StreamWriter,
    service: RunningProgram,
    recording: bytes,
    seconds: float,
    first_minute_sent: asyncio.Future[float],
) -> None:
    head, tail = _form(service, len(recording))
    first = int(len(recording) * 60 / seconds)
    writer.write(head + recording[:first])
    await writer.drain()
    began = time.monotonic()
    first_minute_sent.set_result(began)
    for at in range(first, len(recording), BLOCK_BYTES):
        writer.write(recording[at : at + BLOCK_BYTES])
        await writer.drain()
        due = began + (at - first) / len(recording) * seconds / PACE
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    writer.write(tail)
    await writer.drain()


def _form(service: RunningProgram, size: int) -> tuple[bytes, bytes]:
    """What comes before the recording, with the fields first, and after it."""
    mark = uuid.uuid4().hex
    part = f'--{mark}\r\nContent-Disposition: form-data; name="{{}}"{{}}\r\n\r\n'
    fields = {"model": TWO_REPLICAS, "language": "en", "stream": "true"}
    body = "".join(f"{part.format(name, '')}{value}\r\n" for name, value in fields.items())
    body += part.format("file", '; filename="recording.mp3"')
    tail = f"\r\n--{mark}--\r\n"
    lines = [
        "POST /v1/audio/transcriptions HTTP/1.1",
        f"Host: {service.host}:{service.port}",
        f"Content-Type: multipart/form-data; boundary={mark}",
        f"Content-Length: {len(body) + size + len(tail)}",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", body]).encode(), tail.encode()


async def _read(reader: asyncio.StreamReader, first_minute_sent: asyncio.Future[float]) -> Dictation:
    """Raises `MotetError` if the answer is an error or ends early."""
    heard, rest, ended = Dictation(), b"", False
    status, _ = await status_of(reader)
    if status != 200:
        raise fail("engine", f"The service answered {status}: {(await reader.read(500)).decode(errors='replace')}")
    async for data in chunks(reader):
        *events, rest = (rest + data).split(b"\n\n")
        for event in events:
            facts = _facts(event)
            if facts.get("delta"):
                sent = first_minute_sent.result() if first_minute_sent.done() else time.monotonic()
                heard.first_text_s = min(heard.first_text_s, time.monotonic() - sent)
            if facts.get("type") == "transcript.text.done":
                ended, heard.seconds = True, float(facts["usage"]["seconds"])
    if not ended:
        raise fail("engine", f"The stream ended early: {rest[:500].decode(errors='replace')}")
    return heard


def _facts(event: bytes) -> dict[str, Any]:
    """The JSON of an event; empty for comments."""
    data = b"".join(line.removeprefix(b"data: ") for line in event.splitlines() if line.startswith(b"data: "))
    facts: dict[str, Any] = json.loads(data) if data.startswith(b"{") else {}
    return facts
