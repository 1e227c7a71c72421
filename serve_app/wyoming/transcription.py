"""Transcription for a Wyoming client: its sound goes to a live session of the service while it is spoken."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import Event

from deployments.errors import MotetError, fail
from serve_app.wyoming.client_events import ClientEvents, together
from serve_app.wyoming.events import parsed
from serve_app.wyoming.input_sound import RATE, InputSound
from serve_app.wyoming.remote_service import RemoteService, ServiceSession, ended_early, session_failure

PATH = "/v1/realtime?intent=transcription"
BYTES_PER_SECOND = 2 * RATE
AHEAD_S = 20.0
"""How far the sound may be ahead of the time since its start. The service refuses a client that sends far too fast, so one
that sends a file has to wait."""
MAX_PROMPT_CHARACTERS = 1000
_TRANSCRIPTION = "conversation.item.input_audio_transcription."

Write = Callable[[Event], Awaitable[None]]


@dataclass
class SoundPace:
    """How fast the sound of one request goes to the service. `clock` and `sleep` (seconds) are passed in by tests."""

    most_s: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    sent_s: float = 0.0
    started: float | None = None

    async def before(self, size: int) -> None:
        """Waits until `size` more bytes may be sent. Raises `MotetError` (too_large) for more than `most_s`."""
        self.started = self.clock() if self.started is None else self.started
        self.sent_s += size / BYTES_PER_SECOND
        if self.sent_s > self.most_s:
            cause = f"The recording is over {self.most_s:g} s."
            raise fail("too_large", cause, "Send it in parts.", code="audio_too_long")
        ahead = self.sent_s - (self.clock() - self.started) - AHEAD_S
        if ahead > 0:
            await self.sleep(ahead)


async def transcribe(
    start: AudioStart,
    wanted: Transcribe,
    model: str,
    events: ClientEvents,
    service: RemoteService,
    pace: SoundPace,
    write: Write,
) -> None:
    """Answers the sound until audio-stop with transcript-start, transcript-chunk ..., transcript, transcript-stop.

    Raises `MotetError`.
    """
    sound = InputSound(start)
    async with service.session(PATH) as session:
        await session.send(type="session.update", session=_settings(model, wanted))
        await write(TranscriptStart(language=wanted.language).event())
        await together(_send_sound(sound, events, pace, session), _send_text(session, wanted.language, write))
    await write(TranscriptStop().event())


def _settings(model: str, wanted: Transcribe) -> Mapping[str, Any]:
    """The turn is what the client sends between audio-start and audio-stop, so the service detects none."""
    transcription: dict[str, Any] = {"model": model}
    if wanted.language:
        transcription["language"] = wanted.language
    if terms := [*(wanted.transcript_names or ()), *(wanted.transcript_terms or ())]:
        transcription["prompt"] = ", ".join(map(str, terms))[:MAX_PROMPT_CHARACTERS]
    form = {"type": "audio/pcm", "rate": RATE}
    return {
        "type": "transcription",
        "audio": {"input": {"format": form, "transcription": transcription, "turn_detection": None}},
    }


async def _send_sound(sound: InputSound, events: ClientEvents, pace: SoundPace, session: ServiceSession) -> None:
    while not AudioStop.is_type((event := await events.next()).type):
        if AudioChunk.is_type(event.type):
            await _append(sound.convert(parsed(AudioChunk, event)), pace, session)
    await _append(sound.finish(), pace, session)
    await session.send(type="input_audio_buffer.commit")


async def _append(data: bytes, pace: SoundPace, session: ServiceSession) -> None:
    """Sends sound in messages of at most a second."""
    for at in range(0, len(data), BYTES_PER_SECOND):
        part = data[at : at + BYTES_PER_SECOND]
        await pace.before(len(part))
        await session.send(type="input_audio_buffer.append", audio=b64encode(part).decode())


async def _send_text(session: ServiceSession, language: str | None, write: Write) -> None:
    async with aclosing(session.messages()) as messages:
        async for message in messages:
            assert not isinstance(message, bytes)
            match message["type"].removeprefix(_TRANSCRIPTION):
                case "delta" if message["delta"]:
                    await write(TranscriptChunk(message["delta"]).event())
                case "completed":
                    await write(Transcript(message["transcript"], language=language).event())
                    return
                case "failed":
                    raise MotetError(session_failure(message["error"]))
    ended_early()
