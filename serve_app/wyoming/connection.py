"""One connection of a Wyoming client: its requests are answered one after the other."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass

from wyoming.asr import Transcribe
from wyoming.audio import AudioStart
from wyoming.event import Event
from wyoming.info import Describe
from wyoming.ping import Ping, Pong
from wyoming.server import AsyncEventHandler
from wyoming.tts import Synthesize, SynthesizeStart

from deployments.errors import Failure, MotetError, as_failure, fail
from serve_app.wyoming.client_events import ClientEvents, until_first
from serve_app.wyoming.events import error_event, parsed, write_event
from serve_app.wyoming.remote_service import RemoteService
from serve_app.wyoming.speech import speak, speak_while_written
from serve_app.wyoming.transcription import SoundPace, transcribe

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BridgeLimits:
    """Bounds of the bridge. Times in seconds."""

    connections: int = 64
    """Open connections; others get an error and are closed."""
    idle_s: float = 60.0
    """A client that sends nothing for this long, while the bridge waits for it, is disconnected."""
    write_s: float = 30.0
    """A client that takes nothing for this long is disconnected, and its work is cancelled."""
    audio_s: float = 600.0
    """The longest recording of one request."""


class Bridge:
    """The service and the bounds, shared by all connections."""

    def __init__(self, service: RemoteService, limits: BridgeLimits | None = None) -> None:
        self.service = service
        self.limits = limits or BridgeLimits()
        self.connections: set[Connection] = set()

    def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Connection:
        """What Wyoming's server runs for a new client."""
        return Connection(self, reader, writer)


class Connection(AsyncEventHandler):
    """Answers a client until it disconnects, or an answer fails. After an error event the connection is closed: a client
    would otherwise wait for the rest of the answer."""

    def __init__(self, bridge: Bridge, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._bridge = bridge
        self._events = ClientEvents(reader, bridge.limits.idle_s)
        self._transcribe = Transcribe()

    async def run(self) -> None:
        """Serves the client. Its work is cancelled when it disconnects."""
        self._bridge.connections.add(self)
        try:
            self._check_connections()
            await until_first(self._events.read(), self._answer_all())
        except ConnectionError:
            pass  # the client is gone
        except Exception as error:
            await self._report(as_failure(error), error)
        finally:
            self._bridge.connections.discard(self)
            self.writer.close()

    def _check_connections(self) -> None:
        most = self._bridge.limits.connections
        if len(self._bridge.connections) > most:
            cause = f"{most} clients are connected."
            raise fail("overloaded", cause, "Try again later.", code="too_many_connections")

    async def _report(self, failure: Failure, error: Exception) -> None:
        known = isinstance(error, MotetError)
        logger.warning("A request failed: %s", failure.explained, exc_info=None if known else error)
        with suppress(ConnectionError):  # the client may be gone
            await self.write_event(error_event(failure))

    async def write_event(self, event: Event) -> None:
        """Sends an event. Raises ConnectionError if the client does not take it."""
        await write_event(event, self.writer, self._bridge.limits.write_s)

    async def _answer_all(self) -> None:
        while True:
            await self.handle_event(await self._events.next())

    async def handle_event(self, event: Event) -> bool:
        """Answers a request; other events are dropped, as the protocol says. Raises `MotetError`."""
        kind = event.type
        if Describe.is_type(kind):
            await self.write_event((await self._bridge.service.catalogue()).info().event())
        elif Ping.is_type(kind):
            await self.write_event(Pong(parsed(Ping, event).text).event())
        elif Synthesize.is_type(kind):
            await self._speak(parsed(Synthesize, event))
        elif SynthesizeStart.is_type(kind):
            await self._speak_while_written(parsed(SynthesizeStart, event))
        elif Transcribe.is_type(kind):
            self._transcribe = parsed(Transcribe, event)
        elif AudioStart.is_type(kind):
            await self._hear(parsed(AudioStart, event))
        return True

    async def _speak(self, request: Synthesize) -> None:
        service = self._bridge.service
        voice = (await service.catalogue()).voice(request.voice)
        await speak(request, voice, service, self.write_event)

    async def _speak_while_written(self, start: SynthesizeStart) -> None:
        service = self._bridge.service
        voice = (await service.catalogue()).voice(start.voice)
        await speak_while_written(self._events, voice, service, self.write_event)

    async def _hear(self, start: AudioStart) -> None:
        wanted, self._transcribe = self._transcribe, Transcribe()
        service = self._bridge.service
        model = (await service.catalogue()).recognition_model(wanted.name, wanted.language)
        pace = SoundPace(self._bridge.limits.audio_s)
        await transcribe(start, wanted, model, self._events, service, pace, self.write_event)
