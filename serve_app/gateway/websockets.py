"""What WebSocket routes share: the next message, two tasks of one session, and how a session ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from deployments.errors import Failure
from serve_app.gateway.errors import close_code, error_body, logged

LAST_MESSAGE_S = 2.0
"""How long a session that ends tries to say why."""


async def next_message(websocket: WebSocket) -> str | bytes:
    """The client's next message. Raises `WebSocketDisconnect`."""
    await asyncio.sleep(0)  # a client that floods the queue must not keep others waiting
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


@asynccontextmanager
async def reporting(websocket: WebSocket) -> AsyncIterator[None]:
    """Ends the WebSocket with what the session in the context raises; closes it after one that succeeds. A client that left
    is no failure."""
    try:
        yield
        await websocket.close()
    except WebSocketDisconnect:
        pass
    except Exception as error:
        await _end_with(websocket, logged(error))


async def _end_with(websocket: WebSocket, failure: Failure) -> None:
    """Sends the failure and closes the WebSocket, if it is still open."""
    if websocket.application_state is WebSocketState.CONNECTED:
        try:
            async with asyncio.timeout(LAST_MESSAGE_S):
                await websocket.send_json({"type": "error", **error_body(failure)})
                await websocket.close(close_code(failure))
        except (WebSocketDisconnect, TimeoutError):
            pass  # the client has disconnected meanwhile, or does not read
