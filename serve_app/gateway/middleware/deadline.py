"""Ends requests that take too long."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import Failure
from serve_app.gateway.errors import error_response
from serve_app.gateway.request_context import DUE, RequestDeadline

GOODBYE_S = 5.0
"""How long an answer that has started may take, after its deadline, to report the deadline to the client."""


class Deadline:
    """Ends a request at its deadline: with status 408 if no answer has started, otherwise by ending the stream, which
    reports the reason where its format can (`DUE`)."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        due = RequestDeadline(asyncio.get_running_loop().time() + self._seconds, too_late(self._seconds))
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
            if started or not timer.expired():
                raise
            await error_response(due.failure)(scope, receive, send)


def too_late(seconds: float) -> Failure:
    """The failure of a request or session that is over its deadline of `seconds`."""
    remedy = "Request the missing part separately."
    return Failure(
        "timeout", f"The request took longer than the {seconds:g} s that are allowed.", remedy, code="deadline"
    )
