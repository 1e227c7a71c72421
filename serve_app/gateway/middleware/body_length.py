"""Bounds the length of request bodies."""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import MotetError, fail
from serve_app.gateway.errors import error_response

LENGTH = re.compile(r"[0-9]{1,18}")
"""An announced length. A number with more digits is over every limit and slow to parse."""


class BodyLimit:
    """Refuses a body whose announced length is over the limit of its path, and stops one that turns out longer."""

    def __init__(self, app: ASGIApp, limits: Mapping[str, int], otherwise: int) -> None:
        self._app = app
        self._limits = limits
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limits.get(scope["path"].rstrip("/"), self._otherwise)
        announced = Headers(scope=scope).get("content-length", "0")
        if not LENGTH.fullmatch(announced) or int(announced) > limit:
            await error_response(_too_large(limit).failure)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit)
            return message

        await self._app(scope, counted, send)


def _too_large(limit: int) -> MotetError:
    cause = f"The request body is over {limit:,} bytes."
    return fail("too_large", cause, "Send less, or send it in parts.", code="body_too_large")
