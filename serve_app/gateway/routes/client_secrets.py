"""POST /v1/realtime/client_secrets: a key for web pages, which opens live sessions for some minutes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response
from typing_extensions import TypedDict

from deployments.errors import fail
from deployments.settings import documented
from serve_app.gateway.api_keys import key_digest
from serve_app.gateway.bodies.json_bodies import read_json
from serve_app.gateway.client_secrets import MAX_CHARACTERS, NO_DIGEST, SecretGrant, client_secret
from serve_app.gateway.description.operation import JsonBody, Operation, json_answer
from serve_app.gateway.fields import RequestFields
from serve_app.gateway.live.answers import responder_of
from serve_app.gateway.live.items import new_id
from serve_app.gateway.live.session_settings import SessionConfiguration, SessionSettings
from serve_app.gateway.service import Service, service_of

router = APIRouter()


class SecretExpiry(RequestFields):
    """How long a secret is valid."""

    anchor: Literal["created_at"] = "created_at"
    """From when the time counts."""
    seconds: Annotated[int, Field(ge=10, le=7200)] = 600
    """How long new sessions may be opened."""


class SecretBody(RequestFields):
    """The body: the fields of the sessions that the secret opens."""

    expires_after: SecretExpiry = SecretExpiry()
    """How long the secret is valid."""
    session: Mapping[str, Any] = Field(default_factory=lambda: {"type": "realtime"})
    """The session object, as in `session.update`: see `/asyncapi.json`."""


@documented
class ClientSecretAnswer(TypedDict):
    """A secret and the session that it opens."""

    value: str
    """The secret, which is used like a key."""
    expires_at: int
    """Unix time in seconds."""
    session: dict[str, Any]
    """The session object."""


CLIENT_SECRET = Operation(
    id="create_client_secret",
    tag="Live sessions",
    body=JsonBody(SecretBody),
    answers=(json_answer(ClientSecretAnswer, "The secret."),),
    errors=(404,),
    example={"session": {"type": "realtime"}},
)


@router.post("/v1/realtime/client_secrets", openapi_extra=CLIENT_SECRET.extra)
async def create_client_secret(request: Request) -> Response:
    """Makes a client secret."""
    service = service_of(request)
    body = await read_json(SecretBody, request, strict=service.settings.strict)
    settings = SessionConfiguration.granted(body.session, service.settings.strict).settings
    _check_models(service, settings)
    digest = key_digest(request.headers) if service.keys.needed else NO_DIGEST
    grant = SecretGrant(expires_at=int(time.time()) + body.expires_after.seconds, session=body.session)
    secret = client_secret(digest, grant)
    if len(secret) > MAX_CHARACTERS:
        cause = f"The secret would have {len(secret):,} characters, and a handshake takes {MAX_CHARACTERS:,}."
        raise fail("too_large", cause, "Send long instructions and tools with session.update.", param="session")
    event = settings.event(new_id("sess"))
    if settings.type == "transcription":
        event["object"] = "realtime.transcription_session"
    return JSONResponse({"value": secret, "expires_at": grant.expires_at, "session": event})


def _check_models(service: Service, settings: SessionSettings) -> None:
    hints = settings.audio.input.transcription
    if settings.type == "realtime" and settings.model is not None:
        responder_of(settings.model, service.live.settings)
    if hints is not None and hints.model is not None:
        service.directory.resolve(hints.model, "transcription")
