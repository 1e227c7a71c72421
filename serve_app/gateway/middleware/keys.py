"""Refuses requests without a known API key."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import Failure
from serve_app.gateway.api_keys import key_digest
from serve_app.gateway.errors import error_response

NO_KEY = Failure(
    "unauthorized",
    "This service needs a key.",
    "Send it as 'Authorization: Bearer <key>'.",
    code="invalid_api_key",
)


class KeyCheck:
    """Passes on requests and WebSockets under `/v1` only with a known key, before reading anything else of them."""

    def __init__(self, app: ASGIApp, key_digests: tuple[str, ...]) -> None:
        self._app = app
        self._digests = key_digests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        guarded = scope["type"] in ("http", "websocket") and scope["path"].startswith("/v1")
        if guarded and not self._is_known(Headers(scope=scope)):
            await error_response(NO_KEY)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_known(self, headers: Headers) -> bool:
        if not self._digests:
            return True
        digest = key_digest(headers)
        # All digests are compared, so that the time taken does not tell which one matches.
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0
