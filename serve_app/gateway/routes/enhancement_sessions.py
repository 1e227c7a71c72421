"""GET /v1/audio/enhancements/stream: a WebSocket that takes a sound while it is recorded, and sends it back without noise.

The client sends `session.config`, sound in binary messages, and `input.done`. It gets `session.ready`, as much sound in
binary messages, and `session.done`; or `error`.

Ray Serve reads a WebSocket into an unbounded queue whether or not its application reads, so there is no backpressure. The
route therefore reads messages as they come, and ends a session whose client is too far ahead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Literal, NoReturn

from fastapi import APIRouter, WebSocket
from pydantic import Field
from typing_extensions import TypedDict

from deployments.engines.protocols import LiveBlocks, SeparationTraits
from deployments.errors import MotetError, fail, quoted
from deployments.settings import documented
from serve_app.gateway.api_keys import chosen_subprotocol
from serve_app.gateway.bodies.json_messages import fields_of, message_of
from serve_app.gateway.description.channel import Channel, channel
from serve_app.gateway.enhancement_sound import EnhancementSound
from serve_app.gateway.errors import ErrorEvent
from serve_app.gateway.fields import ModelName, RequestFields
from serve_app.gateway.live_enhancement import LiveEnhancement
from serve_app.gateway.request_context import current_request
from serve_app.gateway.service import service_of
from serve_app.gateway.websockets import next_message, reporting, run_while

router = APIRouter()

MAX_MESSAGE_BYTES = 64 * 1024
"""The longest message in JSON."""
CALL_EVERY_S = 0.02
"""The least time between two calls to the model: a call costs more than the sound of a few milliseconds."""


class EnhancementConfig(RequestFields):
    """The first message: the model and the client's sound. Without a model, the first of the configuration that separates is
    used."""

    type: Literal["session.config"]
    model: ModelName | None = None
    """The name or alias of a model that enhances streams."""
    sample_rate: Annotated[int, Field(ge=8000, le=48_000)] = 48_000
    """Hz."""
    channels: Annotated[int, Field(ge=1, le=2)] = 1
    """1, or 2 with their samples in turn."""


class EnhancementDone(RequestFields):
    """The sound ends."""

    type: Literal["input.done"]


EnhancementInput = EnhancementConfig | EnhancementDone
INPUTS: Mapping[str, type[EnhancementInput]] = {"session.config": EnhancementConfig, "input.done": EnhancementDone}


@documented
class EnhancementReady(TypedDict):
    """The session is configured."""

    type: Literal["session.ready"]
    model: str
    delay_ms: float
    """How late the sound comes back."""
    ignored: list[str]
    """Fields of `session.config` that the service does not use."""


class EnhancementSessionDone(TypedDict):
    """All sound has come back. The service closes the session with 1000."""

    type: Literal["session.done"]
    seconds: float


SOUND = "16-bit PCM, little-endian, of the rate and channels of `session.config`."
CHANNEL = Channel(
    id="enhancement_session",
    tag="Separation",
    received=tuple(INPUTS.values()),
    sent=(EnhancementReady, EnhancementSessionDone, ErrorEvent),
    received_bytes=SOUND,
    sent_bytes=SOUND,
    example=({"type": "session.config", "sample_rate": 48_000}, "sound as it is recorded", {"type": "input.done"}),
)


@router.websocket("/v1/audio/enhancements/stream")
@channel(CHANNEL)
async def enhancement_session(websocket: WebSocket) -> None:
    """Takes the noise out of a sound while it is recorded.

    `session.config` comes first, then sound in binary messages, and `input.done`.
    """
    await websocket.accept(chosen_subprotocol(websocket.headers))
    service = service_of(websocket)
    async with reporting(websocket):
        with service.enhancements.limit.one(service.client(websocket)):
            await _run(websocket)


async def _run(websocket: WebSocket) -> None:
    """Enhances until the sound ends. Raises `MotetError` with what to report to the client, and `WebSocketDisconnect`."""
    service = service_of(websocket)
    config = await _config(websocket)
    name = service.directory.resolve(config.model or service.directory.first("separation"), "separation")
    service.directory.ensure_answers_soon(name)
    blocks = _blocks_of(name, await service.directory.traits(name))
    load = service.enhancements.load
    with load.admit(name, service.directory.models[name].replicas):
        sound = EnhancementSound(config.sample_rate, config.channels, blocks)
        stream = LiveEnhancement(service.directory, name, blocks, config.channels, load)
        ready = {"type": "session.ready", "model": name, "delay_ms": round(blocks.delay_s * 1000, 1)}
        await websocket.send_json({**ready, "ignored": current_request().ignored})
        arrived = asyncio.Event()
        timer = asyncio.timeout(service.enhancements.settings.max_session_s)
        try:
            async with timer:
                await run_while(_listen(websocket, sound, arrived), _enhance(websocket, sound, stream, arrived))
        except TimeoutError:
            if not timer.expired():
                raise
            cause = f"The session is {service.enhancements.settings.max_session_s:g} s old, the longest allowed."
            raise fail("timeout", cause, "Open another session.", code="session_expired") from None
        finally:
            current_request().seconds_of_audio = round(sound.seconds, 3)
            await stream.close()
        await websocket.send_json({"type": "session.done", "seconds": round(sound.seconds, 6)})


async def _config(websocket: WebSocket) -> EnhancementConfig:
    message = await _next(websocket)
    if not isinstance(message, EnhancementConfig):
        cause = "The first message is not session.config."
        raise fail("invalid", cause, "Send session.config first.", param="type", code="no_config")
    return message


def _blocks_of(model: str, traits: SeparationTraits) -> LiveBlocks:
    if traits.live is None:
        cause = f"The model {quoted(model)} does not enhance streams."
        remedy = "Name a model that does, such as deepfilternet, or use POST /v1/audio/enhancements."
        raise fail("unsupported", cause, remedy, param="model")
    return traits.live


async def _listen(websocket: WebSocket, sound: EnhancementSound, arrived: asyncio.Event) -> NoReturn:
    """Takes what the client sends, until it disconnects."""
    most_s = service_of(websocket).enhancements.settings.max_buffered_s
    loop, done = asyncio.get_running_loop(), False
    began_s = loop.time()
    while True:
        message = await _next(websocket, waits=done)
        if isinstance(message, EnhancementConfig):
            cause = "The session is already configured."
            raise fail("invalid", cause, "Open another session.", param="type", code="configured")
        if done:
            raise fail("invalid", "The sound has ended.", "Open another session.", code="input_done")
        if isinstance(message, bytes):
            new_s = sound.seconds_of(message)
            if sound.ahead_s + new_s > most_s:
                raise _too_much(sound, sound.seconds + new_s - (loop.time() - began_s) > most_s)
            for part in sound.parts(message):
                sound.push(part)
                await asyncio.sleep(0)  # resampling seconds of sound at once would keep others waiting
        else:
            done = True
            sound.end()
        arrived.set()


def _too_much(sound: EnhancementSound, early: bool) -> MotetError:
    """The error of sound that has waited for too long, because the client sends it `early` or because the service is slow."""
    if not early:
        cause = f"The service is {sound.ahead_s:.1f} s behind the sound."
        return fail("unavailable", cause, "Try again in a moment.", code="too_slow")
    cause = "The client sends much more sound than was recorded meanwhile."
    remedy = "Send sound as it is recorded. For a file, use POST /v1/audio/enhancements."
    return fail("too_large", cause, remedy, code="input_audio_buffer_full")


async def _enhance(
    websocket: WebSocket, sound: EnhancementSound, stream: LiveEnhancement, arrived: asyncio.Event
) -> None:
    loop = asyncio.get_running_loop()
    while not sound.complete:
        blocks = sound.take()
        if not blocks.shape[1]:
            arrived.clear()
            await arrived.wait()
            continue
        next_call_s = loop.time() + CALL_EVERY_S
        if data := sound.returned(await stream.enhance(blocks)):
            await websocket.send_bytes(data)
        await asyncio.sleep(max(0.0, next_call_s - loop.time()))


async def _next(websocket: WebSocket, *, waits: bool = False) -> EnhancementInput | bytes:
    """The client's next message, which comes within `idle_s` unless the client waits for the rest of its sound. Raises
    `MotetError` that says what is wrong with it."""
    service = service_of(websocket)
    idle_s = service.enhancements.settings.idle_s
    try:
        async with asyncio.timeout(None if waits else idle_s):
            message = await next_message(websocket)
    except TimeoutError:
        cause = f"The client sent nothing for {idle_s:g} s."
        raise fail("timeout", cause, "Open another session.", code="session_idle") from None
    if isinstance(message, bytes):
        return message
    return message_of(fields_of(message, MAX_MESSAGE_BYTES), INPUTS, strict=service.settings.strict)
