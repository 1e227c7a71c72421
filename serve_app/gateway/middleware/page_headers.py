"""Security headers of the web page."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = "default-src 'self'; media-src 'self' blob:; connect-src 'self'; frame-ancestors 'none'"
PAGE_HEADERS = {
    "content-security-policy": POLICY,
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
}
"""Besides those of every answer (`serve_app/edge/security_headers.py`), of which the page's own policy replaces one."""
REFERENCE_HEADERS = {**PAGE_HEADERS, "content-security-policy": f"{POLICY}; img-src 'self' data:"}
"""Of `/docs`. The style sheet of Swagger UI has its icons inside."""


class PageHeaders:
    """Adds the headers that restrict the page to its own origin."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        added = _headers_of(scope["path"]) if scope["type"] == "http" else {}

        async def with_headers(message: Message) -> None:
            if added and message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(added)
            await send(message)

        await self._app(scope, receive, with_headers)


def _headers_of(path: str) -> Mapping[str, str]:
    if path == "/docs" or path.startswith("/docs/"):
        return REFERENCE_HEADERS
    return PAGE_HEADERS if path == "/" or path.startswith("/page") else {}
