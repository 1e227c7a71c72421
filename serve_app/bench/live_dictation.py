"""The load generator of `motet bench live`: sessions at once, fed in real time, in a process of their own
(`live_client_processes.py`).

The process measures its own CPU time beside that of the service: a client that takes a large part of the machine would
measure itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil
from websockets.exceptions import WebSocketException

from deployments.errors import MotetError
from serve_app.bench.live_client import COMPLETED, FAILED, STOPPED, LiveClient, input_settings, live_client
from serve_app.bench.live_latency import behind_speech, behind_turns, final_text, snapshots
from serve_app.bench.live_microphone import CHUNK_S, messages_of
from serve_app.bench.live_recordings import LiveRecording
from serve_app.bench.running_service import RunningProgram

SILENCE_MS = 300
"""Silence after which a turn ends."""
SPREAD_S = 1.0
"""Sessions start within this time, so that they do not hear in step."""
LAST_TURN_S = 1.0
"""How long a session goes on after its recording, at least."""
LAST_TEXT_S = 5.0
"""How long it waits then for texts that are missing."""
TRANSCRIPTION = {"type": "transcription", "include": ["item.input_audio_transcription.tentative"]}


@dataclass(frozen=True, slots=True)
class DictationLoad:
    """Sessions of one model, one for each recording. `service_pids` are the processes whose CPU time is measured."""

    service: RunningProgram
    service_pids: tuple[int, ...]
    model: str
    recordings: tuple[LiveRecording, ...]


@dataclass(frozen=True, slots=True)
class SessionResult:
    """How far a session's texts were behind the speech, in seconds: with tentative words, without, and at the ends of turns.

    `missing` turns had no final text. `late_s` is how late the client's messages were. `failure` says why the session was
    refused or ended.
    """

    text: str = ""
    partials_s: tuple[float, ...] = ()
    committed_s: tuple[float, ...] = ()
    finals_s: tuple[float, ...] = ()
    missing: int = 0
    late_s: tuple[float, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """All sessions, and the CPU time of the service and of this client in cores: CPU seconds a second."""

    sessions: tuple[SessionResult, ...]
    service_cores: float
    client_cores: float


def dictate(load: DictationLoad) -> LoadResult:
    """Runs the sessions."""
    said = [messages_of(recording.samples) for recording in load.recordings]
    before, mine, started = cpu_seconds(load.service_pids), time.process_time(), time.monotonic()
    clients = asyncio.run(_all(load, said))
    passed = time.monotonic() - started
    cores = (cpu_seconds(load.service_pids) - before) / passed, (time.process_time() - mine) / passed
    results = (_result(*pair) for pair in zip(load.recordings, clients, strict=True))
    return LoadResult(tuple(results), *cores)


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of processes so far."""
    seconds = 0.0
    for pid in pids:
        with suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            seconds += times.user + times.system
    return seconds


async def _all(load: DictationLoad, said: Sequence[list[str]]) -> list[LiveClient | str]:
    step = SPREAD_S / len(said)
    return await asyncio.gather(*(_one(load, messages, number * step) for number, messages in enumerate(said)))


async def _one(load: DictationLoad, messages: list[str], wait_s: float) -> LiveClient | str:
    """One session; the reason if it was refused."""
    await asyncio.sleep(wait_s)
    session = TRANSCRIPTION | {"audio": {"input": input_settings(load.model, SILENCE_MS)}}
    try:
        async with live_client(load.service, "intent=transcription", session) as client:
            client.microphone.say(messages)
            await asyncio.sleep(len(messages) * CHUNK_S + LAST_TURN_S)
            await client.until(lambda _: _all_final(client), LAST_TEXT_S)
            return client
    except (OSError, TimeoutError, WebSocketException, MotetError) as error:
        return f"{type(error).__name__}: {error}"


def _all_final(client: LiveClient) -> bool:
    counted = [event.type for event in client.events]
    return counted.count(STOPPED) <= counted.count(COMPLETED) + counted.count(FAILED)


def _result(recording: LiveRecording, client: LiveClient | str) -> SessionResult:
    if isinstance(client, str):
        return SessionResult(failure=client)
    # The recording is said from the first message on.
    finals, missing = behind_turns(recording.words, client.events)
    errors = [str(event.facts["error"]["message"]) for event in client.events if event.type in ("error", FAILED)]
    return SessionResult(
        text=final_text(client.events),
        partials_s=tuple(behind_speech(recording.words, snapshots(client.events, tentative=True))),
        committed_s=tuple(behind_speech(recording.words, snapshots(client.events, tentative=False))),
        finals_s=tuple(finals),
        missing=missing,
        late_s=tuple(client.microphone.late_s),
        failure="; ".join(errors),
    )
