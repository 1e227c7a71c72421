"""Speech for a Wyoming client: a text, or a text while it is being written, through a speech session of the service."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import Event
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStop, SynthesizeStopped

from serve_app.wyoming.catalogue import OfferedVoice
from serve_app.wyoming.client_events import ClientEvents, together
from serve_app.wyoming.events import parsed
from serve_app.wyoming.remote_service import SPEECH_PATH, RemoteService, ServiceSession, ended_early

WIDTH = 2
"""Bytes of a sample: 16-bit PCM, mono."""
CHUNK_BYTES = 8 * 1024
"""The most bytes of sound in one event."""

Write = Callable[[Event], Awaitable[None]]


async def speak(request: Synthesize, voice: OfferedVoice, service: RemoteService, write: Write) -> None:
    """Speaks a whole text: audio-start, audio-chunk ..., audio-stop. Raises `MotetError`."""
    async with service.session(SPEECH_PATH) as session:
        await _configure(session, voice)
        await session.send(type="input.text", text=request.text)
        await session.send(type="input.done")
        await _send_sound(session, write)


async def speak_while_written(events: ClientEvents, voice: OfferedVoice, service: RemoteService, write: Write) -> None:
    """Speaks a text that comes in parts: audio-start, audio-chunk ..., audio-stop, synthesize-stopped.

    Raises `MotetError`.
    """
    async with aclosing(_parts(events)) as parts:
        first = await anext(parts, None)
        if first is not None:
            async with service.session(SPEECH_PATH) as session:
                await _configure(session, voice)
                await session.send(type="input.text", text=first)
                await together(_send_text(parts, session), _send_sound(session, write))
    await write(SynthesizeStopped().event())


async def _parts(events: ClientEvents) -> AsyncGenerator[str]:
    """The parts of the text until synthesize-stop, from the first word on.

    Clients also send the whole text as `synthesize`, for servers that do not take parts.
    """
    begun = False
    while not SynthesizeStop.is_type((event := await events.next()).type):
        if SynthesizeChunk.is_type(event.type):
            text = parsed(SynthesizeChunk, event).text
            begun = begun or bool(text.strip())
            if begun:
                yield text


async def _configure(session: ServiceSession, voice: OfferedVoice) -> None:
    chosen = {"voice": voice.id} if voice.id else {}
    await session.send(type="session.config", model=voice.model, response_format="pcm", **chosen)


async def _send_text(parts: AsyncGenerator[str], session: ServiceSession) -> None:
    async for text in parts:
        await session.send(type="input.text", text=text)
    await session.send(type="input.done")


async def _send_sound(session: ServiceSession, write: Write) -> None:
    rate, sent, finished = 0, 0, False
    async with aclosing(session.messages()) as messages:
        async for message in messages:
            if isinstance(message, bytes):
                for at in range(0, len(message), CHUNK_BYTES):
                    audio = message[at : at + CHUNK_BYTES]
                    await write(AudioChunk(rate, WIDTH, 1, audio, timestamp=_milliseconds(sent, rate)).event())
                    sent += len(audio)
            elif message["type"] == "audio.start" and not rate:
                rate = message["sample_rate"]
                await write(AudioStart(rate, WIDTH, 1, timestamp=0).event())
            elif message["type"] == "session.done":
                finished = True
    if not (rate and finished):
        ended_early()
    await write(AudioStop(timestamp=_milliseconds(sent, rate)).event())


def _milliseconds(sent: int, rate: int) -> int:
    return round(sent / WIDTH / rate * 1000)
