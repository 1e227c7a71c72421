"""The events that wait to be sent to the client of a live session."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from deployments.errors import MotetError, fail
from serve_app.gateway.live.items import new_id


class Outbox:
    """A queue of events, bounded by its bytes. `overflow` ends once it is full, because the client reads too slowly."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._queue: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        """Events as JSON, and their lengths in bytes."""
        self._full = asyncio.Event()

    def emit(self, event: Mapping[str, Any]) -> None:
        """Adds an event, with a new `event_id`. A full queue takes none."""
        if self._full.is_set():
            return
        text = json.dumps({"event_id": new_id("event"), **event}, ensure_ascii=False)
        size = len(text.encode())
        self._bytes += size
        if self._bytes > self._most_bytes:
            self._full.set()
        else:
            self._queue.put_nowait((text, size))

    def emit_last(self, event: Mapping[str, Any]) -> None:
        """Adds the event that ends the session. A full queue is emptied for it: its client does not read."""
        if self._full.is_set():
            self._queue, self._bytes = asyncio.Queue(), 0
            self._full.clear()
        self.emit(event)

    async def next(self) -> str:
        """The next event, as JSON."""
        text, size = await self._queue.get()
        self._bytes -= size
        return text

    @property
    def empty(self) -> bool:
        """Whether no event waits."""
        return self._queue.empty()

    async def overflow(self) -> MotetError:
        """Waits until the queue is full, and says so."""
        await self._full.wait()
        cause = f"The client has not read {self._most_bytes:,} bytes of events."
        return fail("invalid", cause, "Read events as they come.", code="slow_client")
