"""Middleware in front of Ray Serve's own code, in each of its HTTP servers: its proxy and the gateway's port.

Ray Serve obeys some request headers, fails on headers that are not UTF-8, and sends its own errors as plain text. This
middleware removes such headers and gives such errors OpenAI's format.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.edge.errors import EARLY_HEADER, EARLY_STATUSES, edge_error_body, edge_error_headers
from serve_app.edge.security_headers import secured
from serve_app.edge.settings import edge_of

logger = logging.getLogger("ray.serve")

Header = tuple[bytes, bytes]

CONTROLS = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve-multiplexed-model-id",
        b"x-session-id",
    }
)
"""Headers that Ray Serve obeys. It treats `_` as `-`, since proxies exchange them; so does `harmless`."""
ROUTERS = b"x-serve-router-"
"""Prefix of the headers of Ray Serve's own router."""
REQUEST_ID = b"x-request-id"
DECODED = frozenset({REQUEST_ID, b"traceparent", b"tracestate"})
"""Headers that Ray Serve decodes as UTF-8 and passes on. It does not read the others."""
PRINTABLE = re.compile(rb"[\x21-\x7e]{1,256}")
RAYS_OWN = "/-/"
"""Prefix of Ray Serve's own health and route paths, which keep Ray Serve's answers."""
ROUTES = "/-/routes"
FIRST_BYTES = 16_000
FIRST_PART_S = 1.0
"""Time for these bytes, in addition to that for headers. A client that sends less in a second is too slow for any body."""
TOO_MUCH_BYTES = 10 * 2**30
"""More than any route of a service is likely to accept."""
MAX_OPENING = 4
"""WebSockets that open at the same time. While Ray Serve's own proxy opens one, it answers nothing else for milliseconds."""
MAX_EARLY_BYTES = 4096
"""The longest error that is repeated in a header. HAProxy accepts 15 KB of headers."""
KEPT = frozenset({REQUEST_ID, b"retry-after"})
"""Headers that an answer keeps when its body is replaced."""


def middlewares() -> list[Middleware]:
    """The middleware for Ray Serve's setting. Ray Serve calls this in each process that serves HTTP, before it starts to."""
    from serve_app.edge.protocol import install

    install()
    seconds = edge_of(os.environ).header_s + FIRST_PART_S
    return [Middleware(EdgeMiddleware, seconds, os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1")]


def announces_body(headers: Headers) -> bool:
    """Whether a request has a body."""
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def harmless(headers: list[Header]) -> list[Header]:
    """The headers without those that Ray Serve obeys or cannot decode, and with at most one request id."""
    kept: list[Header] = []
    seen: set[bytes] = set()
    for name, value in headers:
        plain = name.lower().replace(b"_", b"-")
        if not name.isascii() or plain in CONTROLS or plain.startswith(ROUTERS):
            continue
        if plain in DECODED:
            if plain in seen or not PRINTABLE.fullmatch(value):
                continue
            seen.add(plain)
        kept.append((name, value))
    return kept


def announces_too_much(headers: Headers) -> bool:
    """Whether every route refuses a body of the announced length, so that there is no need to wait for it."""
    announced = headers.get("content-length", "")
    return announced.isascii() and announced.isdecimal() and int(announced[:20]) > TOO_MUCH_BYTES


class EdgeMiddleware:
    """Removes harmful headers, waits for the first part of a body, gives Ray Serve's own errors OpenAI's format, and every
    answer its security headers. Behind HAProxy it also marks errors that are sent before the end of a body
    (`EarlyErrors`)."""

    def __init__(self, app: ASGIApp, seconds: float, behind_haproxy: bool) -> None:
        self._app = app
        self._seconds = seconds
        self._turns = asyncio.Semaphore(MAX_OPENING)
        self._behind_haproxy = behind_haproxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] in ("http", "websocket"):
            scope["headers"] = harmless(scope["headers"])
        if scope["type"] == "websocket":
            await self._open(scope, receive, send)
            return
        send = _secured(send)
        if scope["type"] != "http" or scope["path"].startswith(RAYS_OWN):
            await self._app(scope, receive, send)
            return
        before = dict(scope)  # Ray Serve changes the other one
        has_body = announces_body(Headers(scope=scope))
        if self._behind_haproxy and has_body:
            early = EarlyErrors(receive, send)
            receive, send = early.receive, early.send
        answer = _Answer(send, lambda: self._knows_routes(before))
        if has_body and not announces_too_much(Headers(scope=scope)):
            parts = await first_part(receive, self._seconds)
            if parts is None:
                await answer.fail(408, [header for header in scope["headers"] if header[0] == REQUEST_ID])
                return
            if parts[-1]["type"] != "http.request":
                return  # the client is gone
            receive = _again(parts, receive)
        try:
            await self._app(scope, receive, answer.send)
        except Exception:
            if not answer.started:
                logger.exception("%s %s failed before it reached the service", scope["method"], quote(scope["path"]))
        if not answer.started:
            await answer.fail(500)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on a WebSocket when fewer than `MAX_OPENING` are opening."""
        await self._turns.acquire()
        answered = False

        def answer() -> None:
            nonlocal answered
            if not answered:
                self._turns.release()
            answered = True

        async def first(message: Message) -> None:
            answer()
            await send(message)

        try:
            await self._app(scope, receive, first)
        finally:
            answer()

    async def _knows_routes(self, scope: Scope) -> bool:
        """Whether Ray Serve has its routes, which it does not have immediately after its start."""
        answers: list[Message] = []

        async def nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def keep(message: Message) -> None:
            answers.append(message)

        asks = {"method": "GET", "path": ROUTES, "raw_path": ROUTES.encode(), "query_string": b"", "headers": []}
        await self._app({**scope, **asks}, nothing, keep)
        body = b"".join(message.get("body", b"") for message in answers)
        return bool(answers) and answers[0]["status"] == 200 and body not in (b"", b"{}")


async def first_part(receive: Receive, seconds: float) -> deque[Message] | None:
    """The first `FIRST_BYTES` of a body, or all of a shorter one; None if they do not arrive in time. A request without them
    is not passed on, since passing one on costs far more than reading these bytes."""
    parts = deque[Message]()
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while size < FIRST_BYTES:
                parts.append(await receive())
                size += len(parts[-1].get("body", b""))
                if not parts[-1].get("more_body", False):
                    break
    except TimeoutError:
        return None
    return parts


def _secured(send: Send) -> Send:
    """Adds the security headers that an answer lacks."""

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": secured(message.get("headers", ()))}
        await send(message)

    return with_headers


def _again(parts: deque[Message], receive: Receive) -> Receive:
    """Receives these parts first."""

    async def given() -> Message:
        return parts.popleft() if parts else await receive()

    return given


class _Answer:
    """One answer. It is replaced if it is an error that is not JSON: then it is not the service's own."""

    def __init__(self, send: Send, knows_routes: Callable[[], Awaitable[bool]]) -> None:
        self._send = send
        self._knows_routes = knows_routes
        self._replaced = False
        self.started = False

    async def send(self, message: Message) -> None:
        """ASGI."""
        if message["type"] == "http.response.start" and _is_plain_error(message):
            status = message["status"]
            if status == 404 and not await self._knows_routes():
                status = 503
            await self.fail(status, [header for header in message["headers"] if header[0].lower() in KEPT])
            self._replaced = True
        elif not self._replaced:
            self.started = True
            await self._send(message)

    async def fail(self, status: int, headers: Sequence[Header] = ()) -> None:
        """Answers with an error in OpenAI's format. `headers` replace its own of the same name."""
        self.started = True
        given = {name.lower() for name, _ in headers}
        own = [header for header in edge_error_headers(status) if header[0] not in given]
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *own]})
        await self._send({"type": "http.response.body", "body": edge_error_body(status)})


class EarlyErrors:
    """Repeats an error in a header if the request's body has not arrived completely; HAProxy then sends it as its own answer.

    HAProxy holds an answer back until the rest of the body has arrived, for as long as a client may be idle. After its own
    answers it closes the connection.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._unfinished = True
        self._start: Message | None = None

    async def receive(self) -> Message:
        """ASGI."""
        message = await self._receive()
        self._unfinished = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """ASGI."""
        if message["type"] == "http.response.start" and message["status"] in EARLY_STATUSES and self._unfinished:
            self._start = message
            return
        if (start := self._start) is not None:
            self._start = None
            body = message.get("body", b"")
            if len(body) <= MAX_EARLY_BYTES and not message.get("more_body", False):
                start = {**start, "headers": [*start["headers"], (EARLY_HEADER, base64.b64encode(body))]}
            await self._send(start)
        await self._send(message)


def _is_plain_error(message: Message) -> bool:
    kinds = [value for name, value in message.get("headers", ()) if name.lower() == b"content-type"]
    return message["status"] >= 400 and not any(value.startswith(b"application/json") for value in kinds)
