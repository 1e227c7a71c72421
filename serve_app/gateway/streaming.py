"""Streamed answers: their source is always closed, and their first item exists before the status is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.errors import MotetError
from serve_app.gateway.errors import error_body, logged
from serve_app.gateway.request_context import DUE
from serve_app.gateway.sse import event


class ClosingStream(StreamingResponse):
    """An item that exists already, then the rest of its source.

    It closes the source also when the client disconnects; Starlette leaves that to the garbage collector.
    """

    def __init__(
        self,
        first: bytes | None,
        source: AsyncGenerator[bytes],
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(source, media_type=media_type, headers=headers)
        self._first = first
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._source.aclose()

    async def close(self) -> None:
        """Ends the source of an answer that is not sent."""
        await self._source.aclose()

    async def stream_response(self, send: Send) -> None:
        """Sends everything. Called by Starlette."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        item = self._first
        while item is not None:
            await send({"type": "http.response.body", "body": item, "more_body": True})
            item = await self._next()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self) -> bytes | None:
        return await anext(self._source, None)


class EventStream(ClosingStream):
    """Server-sent events. A stream that fails, or passes its deadline, ends with an `error` event."""

    async def _next(self) -> bytes | None:
        try:
            return await _before_due(self._source)
        except ClientDisconnect:  # while it was sending
            await self._source.aclose()
            return None
        except Exception as error:
            await self._source.aclose()
            return event({"type": "error", **error_body(logged(error))})


async def _before_due(events: AsyncGenerator[bytes]) -> bytes | None:
    """The next event; None at the end. Raises `MotetError` (timeout) at the request's deadline."""
    due = DUE.get()
    if due is None:
        return await anext(events, None)
    try:
        async with asyncio.timeout_at(due.at) as timer:
            return await anext(events, None)
    except TimeoutError as error:
        if not timer.expired():
            raise
        raise MotetError(due.failure) from error


async def stream_of(
    source: AsyncGenerator[bytes], media_type: str, headers: Mapping[str, str] | None = None
) -> ClosingStream:
    """Waits for the first item, then answers with the stream. Raises what fails before the first item, so that it is
    answered with its own status."""
    try:
        first = await anext(source, None)
    except BaseException:
        await source.aclose()
        raise
    return ClosingStream(first, source, media_type, headers)


async def event_stream(events: AsyncGenerator[bytes], headers: Mapping[str, str] | None = None) -> EventStream:
    """Answers with server-sent events. Raises what fails before the first one."""
    try:
        first = await _before_due(events)
    except BaseException:
        await events.aclose()
        raise
    return EventStream(first, events, "text/event-stream", {"cache-control": "no-store", **(headers or {})})
