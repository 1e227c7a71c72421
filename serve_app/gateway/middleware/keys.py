"""Refuses requests without a known API key, and those that their key may not send."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import Failure, MotetError, fail
from serve_app.edge.addresses import is_loopback, is_own_address
from serve_app.edge.settings import CLIENT_HEADER
from serve_app.gateway.api_keys import SIGNER_HEADER, key_digest, key_of
from serve_app.gateway.audit import audit
from serve_app.gateway.client_secrets import NO_DIGEST, PREFIX, signer_of
from serve_app.gateway.errors import error_response
from serve_app.gateway.jobs.context import JOB
from serve_app.gateway.jobs.job_rights import JobRights
from serve_app.gateway.key_ring import ApiKey, KeyRing
from serve_app.gateway.middleware.origins import is_of, name_of
from serve_app.gateway.request_context import KEY

GUARDED = "/v1"
ADMIN = "/v1/admin"
"""Paths that need an admin key, in a service without keys too, except for `LOADED`."""
REGISTRY = "/v1/registry"
"""What every key may read, those of admins too."""
MODELS = ("/v1/models", REGISTRY)
LOADED = f"{ADMIN}/models"
"""What may be read by whoever may change models."""
PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip")
"""A request with one of them comes from elsewhere."""
CHANGES = ("POST", "PUT", "PATCH", "DELETE")
"""Methods that need one there."""
LIVE_PATH = "/v1/realtime"
"""Where a client secret is a key, for WebSockets."""
NO_KEY = Failure(
    "unauthorized",
    "This service needs a key, and none was sent that it knows.",
    "Send it as 'Authorization: Bearer <key>'.",
    code="invalid_api_key",
)

KEY_GONE = Failure(
    "unauthorized", "The API key that made this job is no longer valid.", "Send it again.", code="invalid_api_key"
)


Administered = Literal["models", "service"] | None


class KeyCheck:
    """Passes on requests and WebSockets under `/v1` only with a known key, before reading anything else of them. A client
    secret opens live sessions. `clock` gives Unix seconds."""

    def __init__(self, app: ASGIApp, keys: KeyRing, clock: Callable[[], float] = time.time) -> None:
        self._app = app
        self._keys = keys
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        app = self._app
        if scope["type"] in ("http", "websocket") and scope["path"].startswith(GUARDED):
            await self._keys.refresh()
            headers = MutableHeaders(raw=list(scope["headers"]))
            try:
                KEY.set(await self._admitted(headers, scope))
                scope["headers"] = headers.raw
            except MotetError as error:
                app = error_response(error.failure)
        await app(scope, receive, send)

    async def _admitted(self, headers: MutableHeaders, scope: Scope) -> ApiKey:
        """The key of the request, which takes one from its quota. That of a secret is added to the headers. Raises
        `MotetError`."""
        key = self._known(headers, scope)
        reads_registry = scope["path"] == REGISTRY and scope.get("method") == "GET"
        refusal = self._refusal(key, _administers(scope), reads_registry=reads_registry)
        if refusal is not None:
            facts = {"key": key.title} if key is not None and self._keys.needed else {}
            audit("key_refused", reason=refusal.failure.code, client=_client(headers, scope), **facts)
            raise refusal
        assert key is not None, "it would have been refused"
        await self._keys.fetch_quotas(key, 1)
        key.count_request()
        return key

    def _known(self, headers: MutableHeaders, scope: Scope) -> ApiKey | None:
        """The key of the headers, or the key that made the secret in them; None for an unknown one."""
        del headers[SIGNER_HEADER]
        text = key_of(headers)
        if text.startswith(PREFIX) and scope["type"] == "websocket" and scope["path"] == LIVE_PATH:
            signers = self._keys.signers if self._keys.needed else (NO_DIGEST,)
            signer = signer_of(text, signers, self._clock())
            headers[SIGNER_HEADER] = signer or NO_DIGEST
            if signer is None:
                return None
        if self._keys.needed:
            return self._keys.find(key_digest(headers))
        changes = _administers(scope) == "models" or _is_below(scope["path"], REGISTRY)
        return self._keys.without_key(local=changes and _is_local(headers, scope))

    def _refusal(self, key: ApiKey | None, administers: Administered, *, reads_registry: bool) -> MotetError | None:
        if key is None:
            return MotetError(NO_KEY)
        if key.expired(self._keys.today()):
            cause = f"The API key {key.title!r} has expired."
            return fail(
                "unauthorized", cause, "Ask the operator of this service for a new one.", code="expired_api_key"
            )
        if administers and not (key.changes_models if administers == "models" else key.admin):
            cause = "This needs an admin key."
            return fail("forbidden", cause, "Send one that has admin: true in security.keys.", code="admin_key_needed")
        if key.admin and not administers and not reads_registry:
            cause = f"This is an admin key. It opens {ADMIN} and {REGISTRY}, and adds, loads and unloads models."
            return fail("forbidden", cause, "Send another key.", code="admin_key_only")
        return None


def _administers(scope: Scope) -> Administered:
    """What an admin key is needed for."""
    path, changes = scope["path"], scope.get("method") in CHANGES
    if path == LOADED or (changes and any(_is_below(path, place) for place in MODELS)):
        return "models"
    return "service" if _is_below(path, ADMIN) else None


def _is_local(headers: MutableHeaders, scope: Scope) -> bool:
    """Whether a request comes from this machine: by its address, by the name that it calls the service, and from no page but
    the service's own. Behind a proxy, `Host` has the name that its clients use."""
    host, origin = headers.get("host", ""), headers.get("origin")
    called_here = is_own_address(name_of(host) or "") and (origin is None or is_of(origin.lower(), host.lower()))
    proxied = any(name in headers for name in PROXY_HEADERS)
    return called_here and not proxied and is_loopback(_client(headers, scope))


def _is_below(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}/")


class OwnerRights:
    """Gives the request of a job what the key that made it may do: it runs later, and without a key."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await self._keys.refresh()
        key = self._keys.of_owner(Headers(scope=scope).get(SIGNER_HEADER, ""))
        if key is None or key.expired(self._keys.today()):
            await error_response(KEY_GONE)(scope, receive, send)
            return
        await self._keys.fetch_quotas(key, 0)
        job = JOB.get()
        KEY.set(key if job is None else JobRights(key, job))
        await self._app(scope, receive, send)


def _client(headers: MutableHeaders, scope: Scope) -> str:
    """The client's address, as far as it is known."""
    address = str((scope.get("client") or ("",))[0])
    return headers.get(CLIENT_HEADER, address) if is_loopback(address) else address  # HAProxy runs on this machine
