"""The header that names the fields of a request which the service did not use."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.gateway.request_context import current_request

HEADER = "x-motet-ignored"
MAX_NAMED = 16
"""Fields that the header names. It gives the number of the others."""


class IgnoredFieldsHeader:
    """Adds `X-Motet-Ignored` to answers, also to streamed ones: a request's fields are read before its answer starts."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""

        async def with_header(message: Message) -> None:
            if message["type"] == "http.response.start" and (ignored := current_request().ignored):
                MutableHeaders(scope=message)[HEADER] = header_value(ignored)
            await send(message)

        await self._app(scope, receive, with_header)


def header_value(ignored: Sequence[str]) -> str:
    """The names with commas between them. Characters that could end a header or a name are percent-encoded."""
    named = [quote(name, safe="[]", errors="replace") for name in ignored[:MAX_NAMED]]
    others = len(ignored) - len(named)
    return ", ".join([*named, *([f"and {others} more"] if others else [])])
