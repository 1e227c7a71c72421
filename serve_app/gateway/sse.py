"""Streamed answers: their source is always closed, and their first bytes exist before the status is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.errors import MotetError
from serve_app.gateway.errors import error_body, logged
from serve_app.gateway.request_context import DUE


class ClosingStream(StreamingResponse):
    """Closes its source when the client disconnects; Starlette leaves that to the garbage collector."""

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
    """The same stream with its first item already made, so that an earlier failure is answered with its own status."""
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
    """One server-sent event. A client that reconnects sends the id of its last event as `Last-Event-ID`."""
    name = f"id: {event_id}\n".encode() if event_id else b""
    return name + b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def with_error_event(events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Ends an event stream that fails, or passes its deadline, with an `error` event. A failure before the first event is
    raised, so that it is answered with a status."""
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
    """Waits for the first item, then answers with the stream."""
    return ClosingStream(await begun(source), media_type, headers)


async def event_stream(events: AsyncGenerator[bytes], headers: Mapping[str, str] | None = None) -> ClosingStream:
    """Answers with server-sent events."""
    headers = {"cache-control": "no-store", **(headers or {})}
    return await stream_of(with_error_event(events), "text/event-stream", headers)
