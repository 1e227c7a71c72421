"""A client of `/v1/realtime` that notes when each event arrives, on the clock of its microphone."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from deployments.errors import fail
from serve_app.bench.live_microphone import Microphone
from serve_app.bench.running_service import RunningProgram

OPEN_TIMEOUT_S = 10.0
AUDIO = "response.output_audio.delta"
COMPLETED = "conversation.item.input_audio_transcription.completed"
DELTA = "conversation.item.input_audio_transcription.delta"
FAILED = "conversation.item.input_audio_transcription.failed"
TENTATIVE = "conversation.item.input_audio_transcription.tentative"
STARTED, STOPPED = "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped"
DONE = "response.done"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """An event and when it arrived, in seconds of the microphone's clock. In place of audio it has `bytes`, its length."""

    at_s: float
    facts: dict[str, Any]

    @property
    def type(self) -> str:
        """The name of the event."""
        return str(self.facts["type"])


class LiveClient:
    """One open session."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.microphone = Microphone(socket.send)
        self.events: list[ServerEvent] = []
        self._arrived = asyncio.Event()

    async def configure(self, session: dict[str, Any]) -> None:
        """Sends `session.update`. Raises `MotetError` if the answer is an error."""
        await self._socket.send(json.dumps({"type": "session.update", "session": session}))
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            while (facts := json.loads(await self._socket.recv()))["type"] != "session.updated":
                if facts["type"] == "error":
                    raise fail("engine", f"The session was not opened: {facts['error']['message']}")

    async def read(self) -> None:
        """Notes events until the connection ends."""
        with suppress(ConnectionClosed):
            async for message in self._socket:
                at_s = self.microphone.now_s()
                facts = json.loads(message)
                if facts["type"] == AUDIO:
                    facts["bytes"] = len(base64.b64decode(facts.pop("delta")))
                self.events.append(ServerEvent(at_s, facts))
                self._arrived.set()

    async def until(
        self, wanted: Callable[[ServerEvent], bool], timeout_s: float, after: int = 0
    ) -> ServerEvent | None:
        """The first event that is `wanted`, of those from position `after` on; None if none arrives in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    for event in self.events[after:]:
                        if wanted(event):
                            return event
                    after = len(self.events)
                    self._arrived.clear()
                    await self._arrived.wait()
        return None


@asynccontextmanager
async def live_client(service: RunningProgram, query: str, session: dict[str, Any]) -> AsyncIterator[LiveClient]:
    """Opens a session whose microphone runs for as long as the context. Raises what `websockets` raises, or `MotetError`."""
    address = f"ws://{service.host}:{service.port}/v1/realtime?{query}"
    async with connect(address, compression=None, open_timeout=OPEN_TIMEOUT_S, max_size=None) as socket:
        client = LiveClient(socket)
        await client.configure(session)
        tasks = [asyncio.create_task(client.microphone.run()), asyncio.create_task(client.read())]
        try:
            yield client
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def input_settings(model: str, silence_ms: int, **turns: object) -> dict[str, Any]:
    """`audio.input` of a session: English, PCM of 24 kHz, turns that end after `silence_ms`."""
    return {
        "format": {"type": "audio/pcm", "rate": 24_000},
        "transcription": {"model": model, "language": "en"},
        "turn_detection": {"type": "server_vad", "silence_duration_ms": silence_ms, **turns},
    }
