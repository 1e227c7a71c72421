"""How late sound comes back from live enhancements, with several sessions at once that send in real time."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from deployments.audio.pcm import to_int16
from deployments.engines.protocols import Samples
from deployments.errors import fail
from serve_app.bench.frame import Figure, Sheet, at_most
from serve_app.bench.live_client_processes import ClientProcesses
from serve_app.bench.live_dictation import cpu_seconds
from serve_app.bench.load import quantile
from serve_app.bench.running_service import RunningProgram
from serve_app.bench.serve_service import service_of
from serve_app.cli.processes import descendants
from serve_app.config import DEFAULT_MODELS

MODEL = "deepfilternet"
SESSIONS = (1, 4, 8)
SESSION_S = 8.0
MESSAGE_S = 0.02
SPREAD_S = 0.5
"""Sessions begin within this time."""
MOST_DELAY_MS = 40.0
DELAY = f"{MODEL}: delay of the model in a live session"


@dataclass(frozen=True, slots=True)
class LateSound:
    """The delay of the model that the service states, and for each message the seconds until its sound was back."""

    delay_ms: float
    late_s: tuple[float, ...]


def figures() -> list[Figure]:
    """What is measured."""
    return [Figure(DELAY, "ms", at_most(MOST_DELAY_MS)), *(Figure(_late(count), "ms") for count in SESSIONS)]


def measure_live(sheet: Sheet, samples: Samples, rate: int) -> None:
    """Sends mono (n,) samples, several times at once."""
    settings = {"models": {MODEL: DEFAULT_MODELS[MODEL].model_dump(mode="json")}}
    data = to_int16(samples[: int(SESSION_S * rate)]).tobytes()
    with service_of(settings) as program:
        pids = [process.pid for process in descendants(os.getpid())]
        with ClientProcesses() as clients:
            _measure_sessions(sheet, program, clients, pids, data, rate)


def _measure_sessions(
    sheet: Sheet, program: RunningProgram, clients: ClientProcesses, pids: Sequence[int], data: bytes, rate: int
) -> None:
    for count in SESSIONS:
        with sheet.measuring(f"{count} live sessions"):
            before, started = cpu_seconds(pids), time.monotonic()
            sessions = clients.run(enhance_live, program, count, data, rate)
            cores = (cpu_seconds(pids) - before) / (time.monotonic() - started)
            late = [seconds for session in sessions for seconds in session.late_s]
            note = f"p50 {quantile(late, 0.5) * 1000:.0f} ms, the model's delay in it; {cores:.2f} cores"
            sheet.put(_late(count), quantile(late, 0.95) * 1000, note)
            if count == SESSIONS[0]:
                sheet.put(DELAY, sessions[0].delay_ms, "without the 20 ms of a message")


def enhance_live(program: RunningProgram, count: int, data: bytes, rate: int) -> list[LateSound]:
    """Sessions at once that each send the 16-bit samples in real time."""

    async def everyone() -> list[LateSound]:
        return await asyncio.gather(*(_session(program, n * SPREAD_S / count, data, rate) for n in range(count)))

    return asyncio.run(everyone())


async def _session(program: RunningProgram, wait_s: float, data: bytes, rate: int) -> LateSound:
    await asyncio.sleep(wait_s)
    async with connect(f"ws://{program.host}:{program.port}/v1/audio/enhancements/stream") as socket:
        await socket.send(json.dumps({"type": "session.config", "model": MODEL, "sample_rate": rate}))
        ready = json.loads(await socket.recv())
        if ready["type"] != "session.ready":
            raise fail("unavailable", f"The session was not opened: {ready['error']['message']}")
        sending = asyncio.create_task(_send(socket, data, 2 * int(MESSAGE_S * rate)))
        arrivals = [(time.monotonic(), len(message)) async for message in socket if isinstance(message, bytes)]
        return LateSound(ready["delay_ms"], late_seconds(await sending, arrivals))


async def _send(socket: ClientConnection, data: bytes, size: int) -> list[tuple[float, int]]:
    """Sends a message when its last sample would have been recorded. Returns when each was due, and where it ends."""
    started, due = time.monotonic(), list[tuple[float, int]]()
    for number, start in enumerate(range(0, len(data), size), 1):
        due.append((started + number * MESSAGE_S, min(start + size, len(data))))
        await asyncio.sleep(max(0.0, due[-1][0] - time.monotonic()))
        await socket.send(data[start : start + size])
    await socket.send(json.dumps({"type": "input.done"}))
    return due


def late_seconds(due: Sequence[tuple[float, int]], arrivals: Sequence[tuple[float, int]]) -> tuple[float, ...]:
    """For each message that was due at a time and ends at a byte: the seconds until as many bytes were back. `arrivals` are
    times with numbers of bytes. Raises `MotetError` if bytes are missing."""
    ends, times = np.cumsum([size for _, size in arrivals]), [at for at, _ in arrivals]
    if not len(ends) or ends[-1] < due[-1][1]:
        raise fail("engine", "A session gave back less sound than it got.")
    return tuple(times[int(np.searchsorted(ends, end))] - at for at, end in due)


def _late(count: int) -> str:
    return f"{MODEL}: {count} live session{'s'[: count > 1]}, sound is back after, p95"
