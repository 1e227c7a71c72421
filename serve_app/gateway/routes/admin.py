"""GET /v1/admin/keys: the keys as this gateway replica knows them, for admin keys."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from deployments.settings import documented
from serve_app.gateway.audit import audit
from serve_app.gateway.description.operation import Operation, json_answer
from serve_app.gateway.key_ring import ApiKey
from serve_app.gateway.request_context import current_key
from serve_app.gateway.service import service_of

router = APIRouter()


class QuotaLeft(TypedDict):
    """What is left of a minute's quotas: null without a limit, and negative while a key pays back."""

    requests: float | None
    seconds_of_audio: float | None


@documented
class KeyFacts(TypedDict):
    """An API key. Neither the key nor its digest is here."""

    name: str | None
    """null for a key of `security.api_key_sha256`."""
    models: list[str] | None
    """The models that it may use; null for all."""
    requests_per_minute: int | None
    seconds_of_audio_per_minute: float | None
    expires: str | None
    """The first day without it, in UTC."""
    expired: bool
    admin: bool
    left: QuotaLeft


class KeyList(TypedDict):
    """Every API key."""

    object: Literal["list"]
    data: list[KeyFacts]


LIST = Operation(id="list_keys", tag="Admin", answers=(json_answer(KeyList, "The keys."),))


@router.get("/v1/admin/keys", openapi_extra=LIST.extra, response_model=None)
async def keys(request: Request) -> KeyList:
    """The names of all keys, what they may do, and about how much is left of their quotas."""
    audit("keys_listed", key=current_key().title)
    ring = service_of(request).keys
    return {"object": "list", "data": [_facts(key, key.expired(ring.today())) for key in ring.named()]}


def _facts(key: ApiKey, expired: bool) -> KeyFacts:
    settings = key.settings
    return {
        "name": key.name,
        "models": list(settings.models) if settings and settings.models is not None else None,
        "requests_per_minute": settings.requests_per_minute if settings else None,
        "seconds_of_audio_per_minute": settings.seconds_of_audio_per_minute if settings else None,
        "expires": settings.expires.isoformat() if settings and settings.expires else None,
        "expired": expired,
        "admin": key.admin,
        "left": {"requests": _rounded(key.requests.left), "seconds_of_audio": _rounded(key.audio.left)},
    }


def _rounded(amount: float | None) -> float | None:
    return amount if amount is None else round(amount, 3)
