"""How long a body may take, and how many requests are served at once.

A request counts among those that are served when its body has arrived. Until then it costs a connection and what it has sent
so far, and no more: clients that stop in the middle keep no one out.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import Failure, MotetError, fail
from serve_app.edge.middleware import announces_body
from serve_app.gateway.errors import error_response

SERVED_PREFIX = "/v1"
"""Whatever else is asked for - the page, whether the service lives and is ready - is answered without a place."""


@dataclass(frozen=True, slots=True)
class BodyPace:
    """A body of n bytes may be waited for `grace_s` + n / `min_bytes_per_s`, at every moment for what has come so far."""

    grace_s: float
    min_bytes_per_s: float
    max_unfinished: int


class BodyDeadline:
    """Ends a request whose body does not keep the pace, and the one that is furthest behind when too many are unfinished."""

    def __init__(self, app: ASGIApp, pace: BodyPace) -> None:
        self._app = app
        self._pace = pace
        self._waiting: set[_Body] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(self._pace)

        async def paced() -> Message:
            return await (receive() if body.complete else self._next_of(body, receive))

        await self._app(scope, paced, send)

    async def _next_of(self, body: _Body, receive: Receive) -> Message:
        """The next part of a body. Raises `MotetError` (timeout)."""
        now = asyncio.get_running_loop().time
        began = now()
        try:
            async with asyncio.timeout_at(began + body.patience_s) as body.timer:
                self._join(body)
                message = await receive()
        except TimeoutError:
            raise self._too_slow(body) from None
        finally:
            self._waiting.discard(body)
        body.takes(message, now() - began)
        return message

    def _join(self, body: _Body) -> None:
        if len(self._waiting) >= self._pace.max_unfinished:
            last = min(self._waiting, key=lambda each: each.due)
            self._waiting.discard(last)
            last.end()
        self._waiting.add(body)

    def _too_slow(self, body: _Body) -> MotetError:
        cause = f"The body stopped after {body.received:,} bytes."
        remedy = f"Send it at {self._pace.min_bytes_per_s:,.0f} bytes a second at least."
        return fail("timeout", cause, remedy, code="body_timeout")


class _Body:
    """One body, as far as it has come."""

    def __init__(self, pace: BodyPace) -> None:
        self._pace = pace
        self._waited_s = 0.0
        self.received = 0
        self.complete = False
        self.timer: asyncio.Timeout | None = None

    @property
    def patience_s(self) -> float:
        """How long the next part may take. Only waiting counts, not the time until a part is asked for."""
        return self._pace.grace_s + self.received / self._pace.min_bytes_per_s - self._waited_s

    @property
    def due(self) -> float:
        """When its patience ends, by the clock of the event loop."""
        return (self.timer and self.timer.when()) or 0.0

    def takes(self, message: Message, seconds: float) -> None:
        """A part came after so many seconds of waiting."""
        self._waited_s += seconds
        self.received += len(message.get("body", b""))
        self.complete = message["type"] != "http.request" or not message.get("more_body", False)

    def end(self) -> None:
        """Lets its patience end now."""
        if self.timer is not None and not self.timer.expired():
            self.timer.reschedule(0.0)


class RequestPlaces:
    """Refuses a request of the API when its body has come and as many as there may be are served already."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._served = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not scope["path"].startswith(SERVED_PREFIX):
            await self._app(scope, receive, send)
            return
        placed = False

        async def counted() -> Message:
            nonlocal placed
            message = await receive()
            if not placed and message["type"] == "http.request" and not message.get("more_body", False):
                if self._served >= self._most:
                    raise MotetError(self._refusal())
                self._served += 1
                placed = True
            return message

        if not announces_body(Headers(scope=scope)):
            if self._served >= self._most:
                await error_response(self._refusal())(scope, receive, send)
                return
            self._served += 1
            placed = True
        try:
            await self._app(scope, counted, send)
        finally:
            self._served -= placed

    def _refusal(self) -> Failure:
        cause = f"The service is at its limit of {self._served} requests at once."
        return Failure("overloaded", cause, "Send this one again later.", code="too_many_requests")
