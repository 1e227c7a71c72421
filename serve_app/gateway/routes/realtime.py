"""WS /v1/realtime: live transcription and conversation, with the events of OpenAI's Realtime API.

`?intent=transcription`, or the name of a model that transcribes, opens a session of type transcription; any other name opens
a conversation. A client secret opens the session that it was made for.

Ray Serve reads a WebSocket into an unbounded queue whether or not its application reads, so there is no backpressure. The
session therefore reads events as they come, and ends if the client sends much faster than real time.
"""

from __future__ import annotations

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from deployments.errors import Failure, MotetError, fail, quoted
from serve_app.gateway.api_keys import chosen_subprotocol, key_of
from serve_app.gateway.client_secrets import PREFIX, granted_by
from serve_app.gateway.description.channel import Channel, channel
from serve_app.gateway.errors import close_code, log_failure, log_unexpected
from serve_app.gateway.live.answers import responder_of
from serve_app.gateway.live.events import EVENTS, error_event
from serve_app.gateway.live.items import new_id
from serve_app.gateway.live.server_events import SERVER_EVENTS
from serve_app.gateway.live.session_settings import SessionConfiguration
from serve_app.gateway.service import Service, service_of

router = APIRouter()

LONGEST_NAME = 256


CHANNEL = Channel(
    id="realtime",
    tag="Live sessions",
    received=tuple(EVENTS.values()),
    sent=SERVER_EVENTS,
    query={
        "intent": "`transcription` opens a session of type transcription.",
        "model": "A model that transcribes opens a session of type transcription; any other name a conversation.",
    },
    example=(
        {"type": "session.update", "session": {"type": "realtime", "instructions": "Be brief."}},
        {"type": "input_audio_buffer.append", "audio": "AAAA"},
    ),
)


@router.websocket("/v1/realtime")
@channel(CHANNEL)
async def realtime(websocket: WebSocket) -> None:
    """Hears somebody speak, and answers if the session is a conversation.

    The events have OpenAI's names. Sound is 16-bit PCM at 24 or 16 kHz, or G.711 at 8 kHz, in base64.
    """
    await websocket.accept(chosen_subprotocol(websocket.headers))
    service = service_of(websocket)
    try:
        with service.live.limit.one(service.client(websocket)):
            service.recorder.live_sessions(service.live.limit.open)
            await _serve(service, websocket)
    except MotetError as error:
        log_failure(error.failure)
        await _refuse(websocket, error.failure)
    finally:
        service.recorder.live_sessions(service.live.limit.open)


async def _serve(service: Service, websocket: WebSocket) -> None:
    """Serves a session to its end. Raises `MotetError` for an address that names no session."""
    configuration, named_model = _configuration(service, websocket)
    session = service.live.open(service, websocket, configuration, named_model)
    try:
        await session.run()
    except WebSocketDisconnect:
        pass
    except MotetError as error:
        log_failure(error.failure)
        await session.end(error.failure, close_code(error.failure))
    except Exception as error:
        failure = log_unexpected(error)
        await session.end(failure, close_code(failure))


def _configuration(service: Service, websocket: WebSocket) -> tuple[SessionConfiguration, bool]:
    """What the client secret or the address says about the session, and whether the address names a model."""
    secret = key_of(websocket.headers)
    if secret.startswith(PREFIX) and (grant := granted_by(secret)):
        return SessionConfiguration.granted(grant.session, service.settings.strict), False
    intent, model = (websocket.query_params.get(name) for name in ("intent", "model"))
    strict = service.settings.strict
    if model is not None and len(model) > LONGEST_NAME:
        raise fail("invalid", f"The model {quoted(model)} has a long name.", "Send its name.", param="model")
    if intent not in (None, "", "transcription", "conversation"):
        cause = f"The intent is {quoted(intent)}."
        raise fail("invalid", cause, "Send intent=transcription, or none.", param="intent")
    if intent == "transcription" or (model and _transcribes(service, model)):
        return SessionConfiguration("transcription", None, model or None, strict), bool(model)
    if model:
        responder_of(model, service.live.settings)
    return SessionConfiguration("realtime", model or None, None, strict), bool(model)


def _transcribes(service: Service, name: str) -> bool:
    directory = service.directory
    model = directory.offered.get(directory.aliases.get(name, name))
    return model is not None and model.task == "transcription"


async def _refuse(websocket: WebSocket, failure: Failure) -> None:
    try:
        await websocket.send_json({"event_id": new_id("event"), **error_event(failure)})
        await websocket.close(close_code(failure))
    except WebSocketDisconnect:
        pass  # the client has disconnected meanwhile
