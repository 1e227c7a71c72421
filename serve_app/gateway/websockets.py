"""What WebSocket routes share: messages in JSON, two tasks of one session, and the message with which a failure ends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping
from typing import Any, NoReturn, TypeVar

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from deployments.errors import Failure, clipped, fail
from serve_app.gateway.bodies.json_bodies import check_structure
from serve_app.gateway.errors import close_code, error_body, validated
from serve_app.gateway.fields import RequestFields

MessageT = TypeVar("MessageT", bound=RequestFields)


def parsed_message(data: str, kinds: Mapping[str, type[MessageT]], most_bytes: int, *, strict: bool) -> MessageT:
    """A message of one of these kinds, of at most `most_bytes` in UTF-8. Raises `MotetError`: (too_large), (invalid)."""
    if len(data) > most_bytes or len(encoded := data.encode(errors="replace")) > most_bytes:
        cause = f"The message is over {most_bytes:,} bytes."
        raise fail("too_large", cause, "Send it in parts.", code="message_too_large")
    check_structure(encoded)
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        cause = f"The message is not valid JSON: {error}."
        raise fail("invalid", cause, "Send a JSON object.", code="json_invalid") from error
    kind = fields.get("type") if isinstance(fields, dict) else None
    if not (isinstance(kind, str) and kind in kinds):
        cause, remedy = f"The message's type is {clipped(repr(kind))}.", f"Types: {', '.join(kinds)}."
        raise fail("invalid", cause, remedy, param="type", code="unknown_type")
    return validated(kinds[kind], fields, strict=strict)


async def next_message(websocket: WebSocket) -> str | bytes:
    """The client's next message. Raises `WebSocketDisconnect`."""
    received = await websocket.receive()
    if received["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(received["code"])
    data: bytes | None = received.get("bytes")
    return received["text"] if data is None else data


async def run_while(listening: Coroutine[Any, Any, NoReturn], answering: Coroutine[Any, Any, None]) -> None:
    """Runs both until the answer ends or either fails, and cancels both."""
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(answering), asyncio.create_task(listening)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def end_with(websocket: WebSocket, failure: Failure) -> None:
    """Sends the failure and closes the WebSocket, if it is still open."""
    if websocket.application_state is WebSocketState.CONNECTED:
        try:
            await websocket.send_json({"type": "error", **error_body(failure)})
            await websocket.close(close_code(failure))
        except WebSocketDisconnect:
            pass  # the client has disconnected meanwhile
