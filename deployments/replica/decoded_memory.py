"""A bound on the decoded sound that the recordings of an audio helper hold together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.errors import fail


class DecodedMemory:
    """Gives recordings their share of `most_bytes`, in the order in which they ask. A recording that takes more than all of
    it is decoded alone. Safe for threads."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._changed = threading.Condition()
        self._waiting: deque[MemoryShare] = deque()
        self.held = 0
        """Bytes that recordings have taken."""

    def share(self) -> MemoryShare:
        """What one recording takes."""
        return MemoryShare(self)

    def _take(self, share: MemoryShare, size: int) -> None:
        with self._changed:
            self._waiting.append(share)
            try:
                self._changed.wait_for(lambda: share.closed or (self._waiting[0] is share and self._fits(size)))
                if share.closed:
                    cause = "The recording was given up before it was decoded."
                    raise fail("timeout", cause, "Send the file again.", code="upload_stalled")
                share.size, self.held = size, self.held + size
            finally:
                self._waiting.remove(share)
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not self.held or self.held + size <= self._most

    def _give_back(self, share: MemoryShare) -> None:
        with self._changed:
            share.closed = True
            self.held, share.size = self.held - share.size, 0
            self._changed.notify_all()


class MemoryShare:
    """The share of one recording. It is taken once, before the recording is decoded."""

    def __init__(self, memory: DecodedMemory) -> None:
        self._memory = memory
        self.size = 0
        self.closed = False

    @property
    def taken(self) -> bool:
        """Whether the recording has its share."""
        return bool(self.size)

    def take(self, size: int) -> None:
        """Waits until there is room for `size` bytes. Raises `MotetError` (timeout) if the share is closed."""
        self._memory._take(self, size)

    def close(self) -> None:
        """Gives the share back, or ends its wait. Safe to call twice."""
        self._memory._give_back(self)


@contextmanager
def released(permits: threading.Semaphore) -> Iterator[None]:
    """Lets another thread have this one's permit meanwhile."""
    permits.release()
    try:
        yield
    finally:
        permits.acquire()
