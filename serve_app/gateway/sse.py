"""Streamed answers that are always closed, and whose first bytes exist before their status is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.errors import Failure, MotetError
from serve_app.gateway.errors import error_body, log_failure, log_unexpected
from serve_app.gateway.middleware.limits import DUE


class ClosingStream(StreamingResponse):
    """Closes its source when the client leaves; Starlette alone would leave that to the garbage collector."""

    def __init__(
        self, source: AsyncGenerator[bytes], media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(source, media_type=media_type, headers=headers)
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._source.aclose()


async def begun(source: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The same stream, with its first item already made: what fails before that fails with a status of its own."""
    try:
        first = await anext(source, None)
    except BaseException:
        await source.aclose()
        raise
    return _resumed(first, source)


async def _resumed(first: bytes | None, source: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    try:
        if first is not None:
            yield first
            async for item in source:
                yield item
    finally:
        await source.aclose()


def event(data: Mapping[str, Any], event_id: str = "") -> bytes:
    """One server-sent event; a client that loses the connection sends its id back as `Last-Event-ID`."""
    name = f"id: {event_id}\n".encode() if event_id else b""
    return name + b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def with_error_event(events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Ends a broken event stream with an `error` event, and so one whose time is over; a stream that never began still fails
    with a status."""
    started = False
    try:
        async with aclosing(events):
            while (item := await _before_due(events)) is not None:
                started = True
                yield item
    except Exception as error:
        if not started:
            raise
        yield event({"type": "error", **error_body(logged(error))})


def logged(error: Exception) -> Failure:
    """The failure to tell a client whose answer has begun. It is logged here, since no handler sees it."""
    if isinstance(error, MotetError):
        log_failure(error.failure)
        return error.failure
    return log_unexpected(error)


async def _before_due(events: AsyncGenerator[bytes]) -> bytes | None:
    """The next event, None at the end. Raises `MotetError` when the request's time is over."""
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
    """Makes the first item, then answers."""
    return ClosingStream(await begun(source), media_type, headers)


async def event_stream(events: AsyncGenerator[bytes], headers: Mapping[str, str] | None = None) -> ClosingStream:
    """Answers with server-sent events."""
    headers = {"cache-control": "no-store", **(headers or {})}
    return await stream_of(with_error_event(events), "text/event-stream", headers)
