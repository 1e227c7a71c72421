"""What stands before the routes: keys, body sizes, deadlines and the headers of the page."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import Failure, MotetError, fail
from serve_app.gateway.errors import error_response

PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; media-src 'self' blob:; connect-src 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
NO_KEY = Failure(
    "unauthorized",
    "This service needs a key.",
    "Send it as 'Authorization: Bearer <key>'.",
    code="invalid_api_key",
)
KEY_SUBPROTOCOL = "openai-insecure-api-key."
"""A browser cannot set headers on a WebSocket, so it sends its key as a subprotocol with this prefix, as OpenAI has it."""


class KeyCheck:
    """Lets `/v1` requests and WebSockets pass only with a known key, before anything more is read of them."""

    def __init__(self, app: ASGIApp, key_digests: tuple[str, ...]) -> None:
        self._app = app
        self._digests = key_digests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        asks = scope["type"] in ("http", "websocket") and scope["path"].startswith("/v1")
        if asks and not self._known(Headers(scope=scope)):
            await error_response(NO_KEY)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _known(self, headers: Headers) -> bool:
        if not self._digests:
            return True
        digest = key_digest(headers)
        # Every digest is compared, whichever matches, so that time tells nothing.
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


def key_digest(headers: Headers) -> str:
    """The SHA-256 of the client's key; of nothing, when it sent none."""
    offered = (
        name.removeprefix(KEY_SUBPROTOCOL) for name in _subprotocols(headers) if name.startswith(KEY_SUBPROTOCOL)
    )
    key = _bearer(headers.get("authorization", "")) or next(offered, "")
    return hashlib.sha256(key.encode()).hexdigest()


def _bearer(authorization: str) -> str:
    """The key in the header, or the whole of one that names no scheme, whose case does not matter (RFC 9110)."""
    scheme, _, key = authorization.partition(" ")
    return (key if scheme.lower() == "bearer" else authorization).strip()


def chosen_subprotocol(headers: Headers) -> str | None:
    """The one to answer a WebSocket with that offers some: the first that is no key."""
    return next((name for name in _subprotocols(headers) if not name.startswith(KEY_SUBPROTOCOL)), None)


def _subprotocols(headers: Headers) -> Sequence[str]:
    return [name.strip() for name in ",".join(headers.getlist("sec-websocket-protocol")).split(",") if name.strip()]


LENGTH = re.compile(r"[0-9]{1,18}")
"""A body's announced length: whatever has more digits is over any limit, and slow to read."""


class BodyLimit:
    """Refuses a body by its announced length, and stops one that turns out longer."""

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
    return fail(
        "too_large", f"The request's body is over {limit:,} bytes.", "Send less, or in parts.", code="body_too_large"
    )


@dataclass(frozen=True, slots=True)
class Due:
    """When a request is over, by the clock of its event loop, and what its client is told then."""

    at: float
    failure: Failure


DUE: ContextVar[Due | None] = ContextVar("DUE", default=None)
"""Of the request that is served here."""
GOODBYE_S = 5.0
"""How long an answer that has begun may take to say that its time is over."""


class Deadline:
    """Ends a request that takes too long: with a status while there is still one to give, else by ending its stream, which
    says why where it can (`DUE`)."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        due = Due(asyncio.get_running_loop().time() + self._seconds, too_late(self._seconds))
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            if not started:
                timer.reschedule(due.at + GOODBYE_S)
            started = True
            await send(message)

        DUE.set(due)
        try:
            async with asyncio.timeout_at(due.at) as timer:
                await self._app(scope, receive, watched)
        except TimeoutError:
            if started:
                raise
            await error_response(due.failure)(scope, receive, send)


def too_late(seconds: float) -> Failure:
    """What a request or a session over its deadline is told."""
    remedy = "Ask for what is missing in another request."
    return Failure("timeout", f"This took longer than the {seconds:g} s that are given.", remedy, code="deadline")


class PageHeaders:
    """Adds the headers that keep the page to its own origin."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        page = scope["type"] == "http" and (scope["path"] == "/" or scope["path"].startswith("/page"))

        async def with_headers(message: Message) -> None:
            if page and message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in PAGE_HEADERS.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, with_headers)
