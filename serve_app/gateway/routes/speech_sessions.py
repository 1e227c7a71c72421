"""GET /v1/audio/speech/stream: a WebSocket that takes a text while it is being written, and sends its sound meanwhile.

The client sends `session.config`, any number of `input.text` and `input.flush`, and `input.done`. It gets the sound in binary
messages, which together are one file, `audio.start` and `audio.done` around that of each piece of the text, and
`session.done`; or `error`.

Ray Serve reads a socket whether or not its application does, into a queue without an end, so a writer cannot be held back by
not reading. Whatever comes is read at once instead, and the text as a whole is bounded.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, NoReturn

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from deployments.errors import Failure, MotetError, clipped, fail
from deployments.settings import StrictModel
from deployments.tasks.speech import CHARACTERS_PER_SECOND
from deployments.tasks.voice_choice import speaker_marker
from deployments.text.sources import ArrivingText
from serve_app.gateway.api_keys import chosen_subprotocol
from serve_app.gateway.bodies.json_bodies import check_structure
from serve_app.gateway.errors import error_body, log_failure, log_unexpected, validated
from serve_app.gateway.middleware.deadline import too_late
from serve_app.gateway.routes.speech import SpeechManner, plan_of, speaker_of
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.service import service_of
from serve_app.gateway.speech.events import PieceStart
from serve_app.gateway.speech.plan import SpeechPlan
from serve_app.gateway.speech.stream import SpeechStream

router = APIRouter()

CLOSE_CODES: Mapping[str, int] = {
    "too_large": 1009,
    "overloaded": 1013,
    "unavailable": 1013,
    "timeout": 1013,
    "engine": 1011,
}
"""Of RFC 6455's registry, by what went wrong. Whatever else is the client's to mend."""
CLIENTS_FAULT = 1008

MOST_MESSAGE_BYTES = 64 * 1024
"""Of sound in one message. Clients refuse long ones, `websockets` above 1 MiB, and a piece of the text may come as several.
An even number, so that no sample is cut in two."""


class SessionConfig(SpeechManner):
    """The first message."""

    type: Literal["session.config"]


class InputText(StrictModel):
    """More of the text."""

    type: Literal["input.text"]
    text: str


class InputFlush(StrictModel):
    """What was written so far is to be spoken now, as if a paragraph ended there."""

    type: Literal["input.flush"]


class InputDone(StrictModel):
    """The text ends."""

    type: Literal["input.done"]


Message = SessionConfig | InputText | InputFlush | InputDone
MESSAGES: Mapping[str, type[Message]] = {
    "session.config": SessionConfig,
    "input.text": InputText,
    "input.flush": InputFlush,
    "input.done": InputDone,
}


@router.websocket("/v1/audio/speech/stream")
async def speech_as_it_is_written(websocket: WebSocket) -> None:
    """Speaks a text while it is being written."""
    await websocket.accept(chosen_subprotocol(websocket.headers))
    service = service_of(websocket)
    deadline_s = service.settings.limits.request_deadline_s
    try:
        with service.sessions.one():
            async with asyncio.timeout(deadline_s):
                await SpeechSession(websocket).run()
        await websocket.close()
    except WebSocketDisconnect:
        pass
    except TimeoutError:
        await _end_with(websocket, too_late(deadline_s))
    except MotetError as error:
        log_failure(error.failure)
        await _end_with(websocket, error.failure)
    except Exception as error:
        await _end_with(websocket, log_unexpected(error))


async def _while(listening: Coroutine[Any, Any, NoReturn], speaking: Coroutine[Any, Any, None]) -> None:
    """Both at once, until the sound ends or either fails. Neither goes on afterwards."""
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(speaking), asyncio.create_task(listening)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _messages(data: bytes) -> Iterator[bytes]:
    return (data[start : start + MOST_MESSAGE_BYTES] for start in range(0, len(data), MOST_MESSAGE_BYTES))


async def _end_with(websocket: WebSocket, failure: Failure) -> None:
    if websocket.application_state is WebSocketState.CONNECTED:
        try:
            await websocket.send_json({"type": "error", **error_body(failure)})
            await websocket.close(CLOSE_CODES.get(failure.kind, CLIENTS_FAULT))
        except WebSocketDisconnect:
            pass  # there is nobody left to tell


def _parsed(data: str, most_bytes: int) -> Message:
    """Raises `MotetError` that says what is wrong with a message."""
    if len(data) > most_bytes or len(encoded := data.encode(errors="replace")) > most_bytes:
        cause = f"The message is over {most_bytes:,} bytes."
        raise fail("too_large", cause, "Send it in parts.", code="message_too_large")
    check_structure(encoded)
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        cause = f"The message is not valid JSON: {error}."
        raise fail("invalid", cause, "Send a JSON object.", code="json_invalid") from error
    kind = fields.get("type") if isinstance(fields, dict) else None
    if not (isinstance(kind, str) and kind in MESSAGES):
        cause, remedy = f"The message's type is {clipped(repr(kind))}.", f"Types: {', '.join(MESSAGES)}."
        raise fail("invalid", cause, remedy, param="type", code="unknown_type")
    return validated(MESSAGES[kind], fields)


class SpeechSession:
    """One text: read on one side, spoken on the other."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._service = service_of(websocket)
        self._settings = self._service.settings.speech.arrival

    async def run(self) -> None:
        """To the end of the sound. Raises `MotetError` for what the client is to be told, and `WebSocketDisconnect`."""
        config = await self._config()
        speaker = await speaker_of(config, self._websocket)
        mark_speakers = speaker_marker(speaker.traits, speaker.voice)
        text = ArrivingText(self._service.settings.speech.pieces, self._settings, mark_speakers)
        plan = await plan_of(config, speaker, text, self._websocket)
        # No more of a text is asked for at once, so the rest of one that is far ahead keeps nobody out.
        reach = plan.max_request_seconds
        ticket = self._service.admit(plan.model, self._websocket.headers, 0.0, reach)
        try:
            ticket.rests()
            told = _Told(plan)
            await _while(self._listen(text, ticket, config.speed), self._speak(text, plan, ticket, told))
        finally:
            ticket.close()

    async def _config(self) -> SessionConfig:
        try:
            async with asyncio.timeout(self._settings.idle_s):
                message = await self._message()
        except TimeoutError:
            message = None
        if not isinstance(message, SessionConfig):
            raise fail(
                "invalid", "The first message is no session.config.", "Send one.", param="type", code="no_config"
            )
        return message

    async def _listen(self, text: ArrivingText, ticket: Ticket, speed: float) -> NoReturn:
        """Takes what the client sends, until it leaves."""
        while True:
            match await self._message():
                case InputText(text=words):
                    text.write(words)
                    ticket.adds(len(words) / CHARACTERS_PER_SECOND / speed)
                case InputFlush():
                    text.flush()
                case InputDone():
                    text.end()
                case SessionConfig():
                    raise fail(
                        "invalid", "The session is configured.", "Open another one.", param="type", code="configured"
                    )

    async def _message(self) -> Message:
        """The next message. Raises `MotetError` that says what is wrong with it."""
        received = await self._websocket.receive()
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(received["code"])
        if (data := received.get("text")) is None:
            raise fail("invalid", "The message is binary.", "Send JSON objects as text.", code="json_invalid")
        return _parsed(data, self._settings.max_message_bytes)

    async def _speak(self, text: ArrivingText, plan: SpeechPlan, ticket: Ticket, told: _Told) -> None:
        await text.take(0, 1)  # the stream's time begins with the first words
        service = self._service
        stream = SpeechStream(plan, service.directory, service.cache, ticket, service.recorder)
        async with aclosing(stream.encoded()) as encoded:
            async for data in encoded:
                for event in told.before(data, stream.piece_starts()):
                    await self._websocket.send_json(event)
                for part in _messages(data):
                    await self._websocket.send_bytes(part)
                for event in told.after(stream):
                    await self._websocket.send_json(event)
                if trouble := stream.new_trouble():
                    await self._websocket.send_json(trouble)
        for event in told.at_the_end(stream):
            await self._websocket.send_json(event)


class _Told:
    """The events around a session's sound: one pair for each piece of the text, as its sound goes by."""

    def __init__(self, plan: SpeechPlan) -> None:
        self._plan = plan
        self._ignored = {"ignored": list(plan.ignored)} if plan.ignored else {}
        self._sentences = 0
        self._bytes = 0
        self._open: dict[str, Any] | None = None

    def before(self, data: bytes, begun: Sequence[PieceStart]) -> Iterator[dict[str, Any]]:
        """What is told before the next bytes, in which these pieces begin."""
        for piece in begun:
            yield from self._close()
            self._sentences += 1
            self._open = {"type": "audio.done", "sentence_index": piece.index}
            yield self._start(piece)
        self._bytes += len(data)

    def after(self, stream: SpeechStream) -> Iterator[dict[str, Any]]:
        """What is told once some bytes were sent."""
        if stream.piece_is_over:
            yield from self._close()

    def at_the_end(self, stream: SpeechStream) -> Iterator[dict[str, Any]]:
        """What is told when the sound has ended."""
        yield from self._close()
        yield {"type": "session.done", "total_sentences": self._sentences, **stream.summary()}

    def _close(self) -> Iterator[dict[str, Any]]:
        if self._open is not None:
            yield {**self._open, "total_bytes": self._bytes}
            self._open, self._bytes = None, 0

    def _start(self, piece: PieceStart) -> dict[str, Any]:
        return {
            "type": "audio.start",
            "sentence_index": piece.index,
            "sentence_text": piece.text,
            "start_seconds": piece.start_seconds,
            "format": self._plan.audio_format,
            "sample_rate": self._plan.traits.sample_rate,
            "model": piece.model,
            "voice": piece.voice,
            **self._ignored,
        }
