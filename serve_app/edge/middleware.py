"""What every request passes before Ray Serve reads it, in each of its HTTP servers: its own proxy and the gateway's port.

Ray Serve takes orders from a client's headers, decodes some of them without care, and answers in plain text what it answers
itself. Here such headers are taken out, and such answers get the shape of all others.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.edge.errors import EARLY_HEADER, EARLY_STATUSES, edge_error_body, edge_error_headers
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
"""Ray Serve's orders. It reads `_` as `-`, since proxies exchange them, and so do we."""
ROUTERS = b"x-serve-router-"
"""What names begin with that belong to Ray Serve's own router."""
REQUEST_ID = b"x-request-id"
DECODED = frozenset({REQUEST_ID, b"traceparent", b"tracestate"})
"""What Ray Serve decodes as UTF-8, and passes on. Others reach the service as they came."""
PRINTABLE = re.compile(rb"[\x21-\x7e]{1,256}")
RAYS_OWN = "/-/"
"""The paths of Ray Serve's own health and routes begin with it: what asks for them knows its answers."""
ROUTES = "/-/routes"
FIRST_BYTES = 16_000
FIRST_PART_S = 1.0
"""How long that much may take beyond what headers may: a client that sends less in a second is too slow for any body."""
TOO_MUCH_BYTES = 10 * 2**30
"""More than any body that a service is likely to take."""
MAX_OPENING = 4
"""WebSockets that Ray Serve opens at once. While its own proxy opens one, it answers nobody else for some milliseconds."""
MAX_EARLY_BYTES = 4096
"""Of an error that is repeated in a header, of which HAProxy takes 15 KB in all."""
KEPT = frozenset({REQUEST_ID, b"retry-after"})
"""Headers of an answer that stay when its body is replaced."""


def middlewares() -> list[Middleware]:
    """For Ray Serve's setting of an import path; called in each process that serves HTTP, before it does."""
    from serve_app.edge.protocol import install

    install()
    seconds = edge_of(os.environ).header_s + FIRST_PART_S
    return [Middleware(EdgeMiddleware, seconds, os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1")]


def announces_body(headers: Headers) -> bool:
    """Whether a request has a body."""
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def harmless(headers: list[Header]) -> list[Header]:
    """The headers without those that command Ray Serve or that it cannot decode, and with one request id at most."""
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
    """Whether the service refuses the body by its announced length, so that there is nothing to wait for."""
    announced = headers.get("content-length", "")
    return announced.isascii() and announced.isdecimal() and int(announced[:20]) > TOO_MUCH_BYTES


class EdgeMiddleware:
    """Takes out the headers that would harm, waits for the first part of a body, and words Ray Serve's own errors as the
    service's. HAProxy, where there is one, is told of errors that come before the end of a body."""

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
                logger.exception("%s %s failed before it reached the service", scope["method"], scope["path"])
        if not answer.started:
            await answer.fail(500)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket, which waits for its turn to be answered."""
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
        """Whether Ray Serve knows where requests go: not yet, when it has just started."""
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
    """A body to its end, or its first `FIRST_BYTES`; None when they do not come in time. Passing a request on costs far more
    than its first bytes do, so one that sends none is not passed on."""
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


def _again(parts: deque[Message], receive: Receive) -> Receive:
    """Gives these parts, and then what comes."""

    async def given() -> Message:
        return parts.popleft() if parts else await receive()

    return given


class _Answer:
    """One answer, which is replaced when it is an error in plain text: the service's own are JSON."""

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
        """Answers with an error of ours. Headers that are given stand before our own of the same name."""
        self.started = True
        given = {name.lower() for name, _ in headers}
        own = [header for header in edge_error_headers(status) if header[0] not in given]
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *own]})
        await self._send({"type": "http.response.body", "body": edge_error_body(status)})


class EarlyErrors:
    """Repeats an error in a header when the request's body has not come to its end: HAProxy makes an answer of its own of it.

    It waits for the rest of a body otherwise, for as long as a client may be idle, though the answer is there; with an answer
    of its own it closes the connection.
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
