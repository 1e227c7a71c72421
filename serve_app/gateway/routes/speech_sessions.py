"""GET /v1/audio/speech/stream: a WebSocket that takes a text while it is written, and sends its sound meanwhile.

The client sends `session.config`, any number of `input.text` and `input.flush`, and `input.done`. It gets sound in binary
messages, which together are one file, `audio.start` and `audio.done` around the sound of each piece of the text, and
`session.done`; or `error`.

Ray Serve reads a WebSocket into an unbounded queue whether or not its application reads, so there is no backpressure. The
route therefore reads messages as they come, and bounds the text as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Literal, NoReturn, get_args

from fastapi import APIRouter, WebSocket

from deployments.errors import MotetError, fail
from deployments.tasks.speech import CHARACTERS_PER_SECOND
from deployments.text.sources import ArrivingText
from serve_app.gateway.api_keys import chosen_subprotocol
from serve_app.gateway.bodies.json_messages import fields_of, message_of
from serve_app.gateway.description.channel import Channel, channel
from serve_app.gateway.errors import ErrorEvent
from serve_app.gateway.fields import RequestFields
from serve_app.gateway.middleware.deadline import too_late
from serve_app.gateway.request_context import current_request
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.service import service_of
from serve_app.gateway.speech.answers import SpeechSessionEvent
from serve_app.gateway.speech.fields import SpeechFields
from serve_app.gateway.speech.plan import SpeechPlan
from serve_app.gateway.speech.stream import SpeechStream
from serve_app.gateway.websockets import next_message, reporting, run_while

router = APIRouter()


class SessionConfig(SpeechFields):
    """The first message: who speaks, and how."""

    type: Literal["session.config"]


class InputText(RequestFields):
    """More of the text; in a session with `input_type: ssml`, a whole document."""

    type: Literal["input.text"]
    text: str
    """The next letters, words or sentences."""


class InputFlush(RequestFields):
    """Speak the text so far now, as if a paragraph ended there."""

    type: Literal["input.flush"]


class InputDone(RequestFields):
    """The text ends."""

    type: Literal["input.done"]


SessionInput = SessionConfig | InputText | InputFlush | InputDone
INPUTS: Mapping[str, type[SessionInput]] = {
    "session.config": SessionConfig,
    "input.text": InputText,
    "input.flush": InputFlush,
    "input.done": InputDone,
}


CHANNEL = Channel(
    id="speech_session",
    tag="Speech",
    received=tuple(INPUTS.values()),
    sent=(*get_args(SpeechSessionEvent), ErrorEvent),
    sent_bytes="Sound. All binary messages together are one file of the requested format.",
    example=(
        {"type": "session.config", "model": "tts-1", "voice": "alloy", "response_format": "wav"},
        {"type": "input.text", "text": "Hello there. "},
        {"type": "input.done"},
    ),
)


@router.websocket("/v1/audio/speech/stream")
@channel(CHANNEL)
async def speech_session(websocket: WebSocket) -> None:
    """Speaks a text while it is being written.

    `session.config` comes first, then any number of `input.text` and `input.flush`, and `input.done`.
    """
    await websocket.accept(chosen_subprotocol(websocket.headers))
    service = service_of(websocket)
    deadline_s = service.settings.limits.request_deadline_s
    timer = asyncio.timeout(deadline_s)
    async with reporting(websocket):
        with service.sessions.one(service.client(websocket)):
            try:
                async with timer:
                    await _run(websocket)
            except TimeoutError as error:
                if timer.expired():
                    raise MotetError(too_late(deadline_s)) from error
                raise


async def _run(websocket: WebSocket) -> None:
    """Speaks until the sound ends. Raises `MotetError` with what to report to the client, and `WebSocketDisconnect`."""
    service = service_of(websocket)
    config = await _config(websocket)
    plan, text = await service.planner.plan_arriving(config, service.owner(websocket.headers))
    plan = replace(plan, ignored=(*plan.ignored, *current_request().ignored))
    # A session asks for no more than this at once, so a text that is far ahead does not keep others out.
    ticket = service.admit(plan.model, websocket.headers, 0.0, reach=plan.max_request_seconds)
    try:
        ticket.stop_waiting()
        await run_while(_listen(websocket, config, plan, text, ticket), _speak(websocket, plan, text, ticket))
    finally:
        ticket.close()


async def _config(websocket: WebSocket) -> SessionConfig:
    received: SessionInput | None = None
    try:
        async with asyncio.timeout(service_of(websocket).settings.speech.arrival.idle_s):
            received = await _next_input(websocket)
    except TimeoutError:
        pass
    if not isinstance(received, SessionConfig):
        cause = "The first message is not session.config."
        raise fail("invalid", cause, "Send session.config first.", param="type", code="no_config")
    return received


async def _listen(
    websocket: WebSocket, config: SessionConfig, plan: SpeechPlan, text: ArrivingText, ticket: Ticket
) -> NoReturn:
    """Takes what the client sends, until it disconnects."""
    planner = service_of(websocket).planner
    while True:
        match await _next_input(websocket):
            case InputText(text=words):
                if config.input_type == "ssml":
                    text.write_pieces(words, (await planner.read_document(config, plan, words)).pieces)
                else:
                    text.write(words)
                ticket.extend(len(words) / CHARACTERS_PER_SECOND / config.speed)
            case InputFlush():
                text.flush()
            case InputDone():
                text.end()
            case SessionConfig():
                cause = "The session is already configured."
                raise fail("invalid", cause, "Open another session.", param="type", code="configured")


async def _speak(websocket: WebSocket, plan: SpeechPlan, text: ArrivingText, ticket: Ticket) -> None:
    await text.take(0, 1)  # the stream's time begins with the first words
    service = service_of(websocket)
    stream = SpeechStream(plan, service.directory, service.cache, ticket, service.recorder)
    async with aclosing(stream.messages()) as messages:
        async for message in messages:
            if isinstance(message, bytes):
                await websocket.send_bytes(message)
            else:
                await websocket.send_json(message)


async def _next_input(websocket: WebSocket) -> SessionInput:
    """The client's next message. Raises `MotetError` that says what is wrong with it."""
    message = await next_message(websocket)
    if isinstance(message, bytes):
        raise fail("invalid", "The message is binary.", "Send JSON objects as text.", code="json_invalid")
    settings = service_of(websocket).settings
    fields = fields_of(message, settings.speech.arrival.max_message_bytes)
    return message_of(fields, INPUTS, strict=settings.strict)
