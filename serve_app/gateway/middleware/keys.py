"""Refuses requests without a known API key."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import Failure
from serve_app.gateway.api_keys import SIGNER_HEADER, key_digest, key_of
from serve_app.gateway.client_secrets import NO_DIGEST, PREFIX, signer_of
from serve_app.gateway.errors import error_response

NO_KEY = Failure(
    "unauthorized",
    "This service needs a key.",
    "Send it as 'Authorization: Bearer <key>'.",
    code="invalid_api_key",
)


LIVE_PATH = "/v1/realtime"
"""Where a client secret is a key, for WebSockets."""


class KeyCheck:
    """Passes on requests and WebSockets under `/v1` only with a known key, before reading anything else of them. A client
    secret opens live sessions. `clock` gives Unix seconds."""

    def __init__(self, app: ASGIApp, key_digests: tuple[str, ...], clock: Callable[[], float] = time.time) -> None:
        self._app = app
        self._digests = key_digests
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] in ("http", "websocket") and scope["path"].startswith("/v1"):
            headers = MutableHeaders(raw=list(scope["headers"]))
            if not self._is_known(headers, scope):
                await error_response(NO_KEY)(scope, receive, send)
                return
            scope["headers"] = headers.raw
        await self._app(scope, receive, send)

    def _is_known(self, headers: MutableHeaders, scope: Scope) -> bool:
        """Whether the headers have a key. That of a secret is added to them."""
        del headers[SIGNER_HEADER]
        key = key_of(headers)
        if key.startswith(PREFIX) and scope["type"] == "websocket" and scope["path"] == LIVE_PATH:
            signer = signer_of(key, self._digests or (NO_DIGEST,), self._clock())
            headers[SIGNER_HEADER] = signer or NO_DIGEST
            return signer is not None
        if not self._digests:
            return True
        digest = key_digest(headers)
        # All digests are compared, so that the time taken does not tell which one matches.
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0
