"""A bounded pipe of bytes from an event loop to a decoder on a thread."""

from __future__ import annotations

import asyncio
import threading
from collections import deque

from deployments.errors import fail


class BytePipe:
    """`write` runs on the event loop that made the pipe, and waits for room. `read` runs on a thread, and blocks.

    The pipe holds at most `capacity_bytes`, plus one block.
    """

    def __init__(self, capacity_bytes: int, read_timeout_seconds: float) -> None:
        self._capacity = capacity_bytes
        self._timeout = read_timeout_seconds
        self._blocks: deque[bytes] = deque()
        self._held = 0
        self._ended = False
        self._aborted = False
        self._changed = threading.Condition()
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._room.set()

    async def write(self, block: bytes) -> None:
        """Adds a block, once there is room for it. Blocks written after `abort` are dropped."""
        await self._room.wait()
        with self._changed:
            if self._aborted or not block:
                return
            self._blocks.append(block)
            self._held += len(block)
            if self._held >= self._capacity:
                self._room.clear()
            self._changed.notify()

    def end(self) -> None:
        """No more bytes will come."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def abort(self) -> None:
        """Ends a blocked `read` with an error, and blocked writes without one."""
        with self._changed:
            self._aborted = True
            self._blocks.clear()
            self._changed.notify()
        self._loop.call_soon_threadsafe(self._room.set)

    @property
    def ready(self) -> bool:
        """Whether `read` returns or raises at once."""
        with self._changed:
            return bool(self._blocks) or self._ended or self._aborted

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; empty at the end. Raises `MotetError` (timeout) after `abort`, or if none come in time."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._blocks) or self._ended or self._aborted, self._timeout)
            if self._aborted or not (self._blocks or self._ended):
                raise fail(
                    "timeout", "The upload stopped before its end.", "Send the file again.", code="upload_stalled"
                )
            return self._take(size) if self._blocks else b""

    def _take(self, size: int) -> bytes:
        block = self._blocks.popleft()
        if 0 <= size < len(block):
            self._blocks.appendleft(block[size:])
            block = block[:size]
        self._held -= len(block)
        if self._held < self._capacity:
            self._loop.call_soon_threadsafe(self._room.set)
        return block
