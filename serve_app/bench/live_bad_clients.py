"""Connections to `/v1/realtime` that open and vanish, send rubbish, or stall, and what the service holds afterwards."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from serve_app.bench.live_client import input_settings
from serve_app.bench.live_microphone import CHUNK_S, messages_of
from serve_app.bench.live_recordings import Pcm
from serve_app.bench.load import ready_report
from serve_app.bench.running_service import RunningProgram

STALL_S = 5.0
SETTLED_S = 15.0
"""How long the service may take to forget its last client."""
HANDSHAKE = b"GET /v1/realtime HTTP/1.1\r\nHost: "
RUBBISH = (
    "not JSON",
    "[]",
    '{"type": 7}',
    '{"type": "no.such.event"}',
    '{"type": "input_audio_buffer.append", "audio": "%%%"}',
    '{"type": "input_audio_buffer.append", "audio": "AAA="}',
    '{"type": "session.update", "session": {"type": "transcription", "audio": {"input": {"format": {"rate": -1}}}}}',
    '{"type": "conversation.item.truncate", "item_id": "none", "content_index": 0, "audio_end_ms": -5}',
    b"\x00\xff" * 500,
    json.dumps({"type": "x" * 100_000}),
)


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the service holds: asyncio tasks and resident memory of the gateway, and open streams of all replicas."""

    tasks: int
    memory_bytes: int
    streams: int


@dataclass(frozen=True, slots=True)
class BadLoad:
    """`connections` in `seconds`. Some of them speak `samples` (mono, 16 kHz) before they vanish."""

    service: RunningProgram
    connections: int
    seconds: float
    model: str
    samples: Pcm


async def holdings(service: RunningProgram) -> Holdings:
    """Asks the service."""
    report = await ready_report(service)
    streams = sum(model.get("open_streams", 0) for model in report["models"].values())
    return Holdings(report["gateway"]["tasks"], report["gateway"]["memory_bytes"], streams)


async def settled(service: RunningProgram, before: Holdings) -> Holdings:
    """What is held as soon as no more tasks and streams are open than `before`, or after `SETTLED_S`."""
    until = time.monotonic() + SETTLED_S
    while True:
        now = await holdings(service)
        if (now.tasks <= before.tasks and now.streams <= before.streams) or time.monotonic() > until:
            return now
        await asyncio.sleep(0.5)


def misbehave(load: BadLoad) -> int:
    """Runs all connections. Returns how many the service refused or closed by itself."""
    return asyncio.run(_all(load))


async def _all(load: BadLoad) -> int:
    kinds = (_vanishes, _rubbish, _stalls, _half_a_handshake, _speaks_and_vanishes, _half_a_message)

    async def one(number: int, kind: Callable[[BadLoad, int], Awaitable[None]]) -> bool:
        await asyncio.sleep(load.seconds * number / load.connections)
        try:
            await kind(load, number)
        except (OSError, TimeoutError, EOFError, WebSocketException):
            return True
        return False

    ended = await asyncio.gather(*(one(*each) for each in enumerate(islice(cycle(kinds), load.connections))))
    return sum(ended)


def _open(load: BadLoad) -> connect:
    address = f"ws://{load.service.host}:{load.service.port}/v1/realtime?intent=transcription"
    return connect(address, compression=None)


async def _vanishes(load: BadLoad, number: int) -> None:
    async with _open(load) as socket:
        socket.transport.abort()


async def _rubbish(load: BadLoad, number: int) -> None:
    async with _open(load) as socket:
        for position in range(3):
            await socket.send(RUBBISH[(number + position) % len(RUBBISH)])
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                async for _ in socket:
                    pass


async def _stalls(load: BadLoad, number: int) -> None:
    """Sends nothing and reads nothing."""
    async with _open(load) as socket:
        await asyncio.sleep(STALL_S)
        socket.transport.abort()


async def _half_a_handshake(load: BadLoad, number: int) -> None:
    _, writer = await asyncio.open_connection(load.service.host, load.service.port)
    writer.write(HANDSHAKE)
    await asyncio.sleep(STALL_S)
    writer.transport.abort()


async def _half_a_message(load: BadLoad, number: int) -> None:
    async with _open(load) as socket:
        await socket.recv()
        socket.transport.write(bytes([0x81, 0xFE, 0x10, 0x00, 1, 2, 3, 4]) + b"half")  # a text of 4096 bytes, masked
        await asyncio.sleep(STALL_S)
        socket.transport.abort()


async def _speaks_and_vanishes(load: BadLoad, number: int) -> None:
    async with _open(load) as socket:
        await _configure(socket, load.model)
        for message in messages_of(load.samples):
            await socket.send(message)
            await asyncio.sleep(CHUNK_S)
        socket.transport.abort()


async def _configure(socket: ClientConnection, model: str) -> None:
    session = {"type": "transcription", "audio": {"input": input_settings(model, 300)}}
    await socket.send(json.dumps({"type": "session.update", "session": session}))
