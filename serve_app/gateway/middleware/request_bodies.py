"""Bounds how long request bodies may take to arrive, and how much memory the unfinished ones hold."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import MotetError, fail


@dataclass(frozen=True, slots=True)
class BodyPace:
    """A body of which n bytes have arrived may be waited for `grace_s` + n / `min_bytes_per_s` in total.

    At most `max_unfinished` bodies are waited for at once, and together they have at most `max_unfinished_bytes` in memory.
    """

    grace_s: float
    min_bytes_per_s: float
    max_unfinished: int
    max_unfinished_bytes: int


class BodyDeadline:
    """Ends a request whose body does not keep the pace. If too many bodies are unfinished, the one that is closest to its
    deadline ends; if they hold too many bytes, the one that holds the most ends, so that small requests still get in."""

    def __init__(self, app: ASGIApp, pace: BodyPace) -> None:
        self._app = app
        self._pace = pace
        self._waiting: set[_Body] = set()
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(self._pace, in_memory=not _is_form(scope))

        async def paced() -> Message:
            return await (receive() if body.complete else self._next_part(body, receive))

        try:
            await self._app(scope, paced, send)
        finally:
            self._release(body)

    async def _next_part(self, body: _Body, receive: Receive) -> Message:
        """The next part of a body. Raises `MotetError` (timeout, overloaded)."""
        now = asyncio.get_running_loop().time
        began = now()
        try:
            async with asyncio.timeout_at(began + body.patience_s) as body.timer:
                self._join(body)
                message = await receive()
        except TimeoutError:
            raise (self._too_much() if body.evicted else self._too_slow(body)) from None
        finally:
            self._waiting.discard(body)
        body.takes(message, now() - began)
        self._hold(body, message)
        return message

    def _join(self, body: _Body) -> None:
        if len(self._waiting) >= self._pace.max_unfinished:
            last = min(self._waiting, key=lambda each: each.due)
            self._waiting.discard(last)
            last.end()
        self._waiting.add(body)

    def _hold(self, body: _Body, message: Message) -> None:
        """Counts the bytes of a body that the application keeps in memory until it is complete."""
        if body.complete:
            self._release(body)
        if body.complete or not body.in_memory:
            return
        size = len(message.get("body", b""))
        while self._held_bytes + size > self._pace.max_unfinished_bytes:
            largest = max(self._waiting, key=lambda each: each.held_bytes, default=body)
            if largest.held_bytes <= body.held_bytes + size:
                raise self._too_much()
            self._waiting.discard(largest)
            self._release(largest)
            largest.evicted = True
            largest.end()
        self._held_bytes += size
        body.held_bytes += size

    def _release(self, body: _Body) -> None:
        self._held_bytes -= body.held_bytes
        body.held_bytes = 0

    def _too_slow(self, body: _Body) -> MotetError:
        cause = f"The body stopped after {body.received:,} bytes."
        remedy = f"Send it at {self._pace.min_bytes_per_s:,.0f} bytes a second at least."
        return fail("timeout", cause, remedy, code="body_timeout")

    def _too_much(self) -> MotetError:
        cause = f"Unfinished request bodies hold {self._pace.max_unfinished_bytes:,} bytes, the limit of this service."
        return fail("overloaded", cause, "Send the request again later.", code="too_many_unfinished_bytes")


class _Body:
    """One body, as far as it has arrived."""

    def __init__(self, pace: BodyPace, in_memory: bool) -> None:
        self._pace = pace
        self._waited_s = 0.0
        self.in_memory = in_memory
        self.received = 0
        self.held_bytes = 0
        self.complete = False
        self.evicted = False
        """Whether it ends because unfinished bodies hold too much memory."""
        self.timer: asyncio.Timeout | None = None

    @property
    def patience_s(self) -> float:
        """How long the next part may take. Only time spent waiting for the client counts."""
        return self._pace.grace_s + self.received / self._pace.min_bytes_per_s - self._waited_s

    @property
    def due(self) -> float:
        """The end of its patience, on the clock of the event loop."""
        return (self.timer and self.timer.when()) or 0.0

    def takes(self, message: Message, seconds: float) -> None:
        """A part arrived after waiting for `seconds`."""
        self._waited_s += seconds
        self.received += len(message.get("body", b""))
        self.complete = message["type"] != "http.request" or not message.get("more_body", False)

    def end(self) -> None:
        """Ends its patience now."""
        if self.timer is not None and not self.timer.expired():
            self.timer.reschedule(0.0)


def _is_form(scope: Scope) -> bool:
    """Whether the body is a multipart form, whose files go to disk as they arrive."""
    return any(name == b"content-type" and value.lower().startswith(b"multipart/") for name, value in scope["headers"])
