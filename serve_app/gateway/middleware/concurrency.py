"""Bounds how many requests of the API a gateway replica serves at once.

A request counts from when its body has arrived, or its answer begins (`SERVE_NOW`). Before that it costs a connection and the
bytes that it has sent, so clients that stop in the middle of a body keep no other client out.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import Failure, MotetError
from serve_app.edge.middleware import announces_body
from serve_app.gateway.errors import error_response
from serve_app.gateway.request_context import SERVE_NOW

LIMITED_PREFIX = "/v1"
"""Other paths (the page, liveness, readiness) are always answered."""


class ConcurrencyLimit:
    """Refuses a request of the API whose body has arrived while `limit` others are served."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._served = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not scope["path"].startswith(LIMITED_PREFIX):
            await self._app(scope, receive, send)
            return
        counted = False

        def count() -> None:
            nonlocal counted
            if not counted and self._served >= self._limit:
                raise MotetError(self._refusal())
            self._served += not counted
            counted = True

        async def watched() -> Message:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                count()
            return message

        SERVE_NOW.set(count)
        if not announces_body(Headers(scope=scope)):
            if self._served >= self._limit:
                await error_response(self._refusal())(scope, receive, send)
                return
            count()
        try:
            await self._app(scope, watched, send)
        finally:
            self._served -= counted

    def _refusal(self) -> Failure:
        cause = f"The service is at its limit of {self._served} requests at once."
        return Failure("overloaded", cause, "Send this one again later.", code="too_many_requests")
