"""The events of one Wyoming client, in order, while the bridge answers the earlier ones."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from wyoming.event import Event

from deployments.errors import fail
from serve_app.wyoming.events import read_event

EVENTS_AHEAD = 8
"""Events that are read before they are used. After them the client has to wait."""


class ClientEvents:
    """Reads ahead, so that the end of the connection is noticed during an answer."""

    def __init__(self, reader: asyncio.StreamReader, idle_s: float) -> None:
        self._reader = reader
        self._idle_s = idle_s
        self._events: asyncio.Queue[Event] = asyncio.Queue(EVENTS_AHEAD)

    async def read(self) -> None:
        """Reads until the client disconnects. Raises `MotetError` for what is not an event."""
        while (event := await read_event(self._reader)) is not None:
            await self._events.put(event)

    async def next(self) -> Event:
        """The next event. Raises `MotetError` (timeout) if the client sends none for too long."""
        try:
            async with asyncio.timeout(self._idle_s):
                return await self._events.get()
        except TimeoutError as error:
            cause = f"The client sent nothing for {self._idle_s:g} s."
            raise fail("timeout", cause, "Connect again.", code="idle") from error


async def until_first(*work: Coroutine[Any, Any, None]) -> None:
    """Runs all until one returns or fails, and cancels the others."""
    await _run(work, asyncio.FIRST_COMPLETED)


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Runs all until each has returned; if one fails, cancels the others."""
    await _run(work, asyncio.FIRST_EXCEPTION)


async def _run(work: tuple[Coroutine[Any, Any, None], ...], until: str) -> None:
    tasks = [asyncio.create_task(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=until)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
