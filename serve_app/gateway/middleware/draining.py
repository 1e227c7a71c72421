"""Refuses new requests while the gateway drains, and counts the open ones."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import Failure
from serve_app.gateway.draining import Drain
from serve_app.gateway.errors import error_response

HEALTH = ("/livez", "/readyz")
"""Paths that answer until the end, and that nobody waits for."""
RESTART_S = 10.0
"""`Retry-After` of a refusal: about how long a service takes to restart with its default models."""
DRAINING = Failure(
    "unavailable",
    "The service is stopping and takes no new requests.",
    "Send this one again later, or to another instance.",
    code="draining",
    retry_after_s=RESTART_S,
)


class DrainCheck:
    """Passes on requests and WebSockets until the drain begins; then 503, and the connection is closed."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in HEALTH:
            await self._app(scope, receive, send)
        elif self._drain.begun:
            refusal = error_response(DRAINING)
            refusal.headers["connection"] = "close"
            await refusal(scope, receive, send)
        else:
            with self._drain.one():
                await self._app(scope, receive, send)
