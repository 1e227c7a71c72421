"""A bound on the decoded sound that the recordings of an audio helper hold together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.errors import MotetError, fail

MOST_PASSED = 8
"""How many smaller recordings may take their share before one that has waited longer for a large one."""


class DecodedMemory:
    """Gives recordings their share of `most_bytes`, in the order in which they ask, except that small ones may pass each
    large one up to `MOST_PASSED` times. Safe for threads."""

    def __init__(self, most_bytes: int, most_wait_s: float) -> None:
        """A recording that has waited for `most_wait_s` seconds is refused."""
        self._most = most_bytes
        self._most_wait_s = most_wait_s
        self._changed = threading.Condition()
        self._waiting: list[MemoryShare] = []
        self.held = 0
        """Bytes that recordings have taken."""

    def share(self) -> MemoryShare:
        """What one recording takes."""
        return MemoryShare(self)

    def _take(self, share: MemoryShare, size: int) -> None:
        if size > self._most:
            raise _too_large(size, self._most)
        with self._changed:
            self._waiting.append(share)
            try:
                self._changed.wait_for(lambda: share.closed or self._may_take(share, size), self._most_wait_s)
                if share.closed:
                    cause = "The recording was given up before it was decoded."
                    raise fail("timeout", cause, "Send the file again.", code="upload_stalled")
                if not self._may_take(share, size):
                    raise _waited_too_long(self._most_wait_s)
                share.size, self.held = size, self.held + size
                for passed in self._before(share):
                    passed.times_passed += 1
            finally:
                self._waiting.remove(share)
                self._changed.notify_all()

    def _may_take(self, share: MemoryShare, size: int) -> bool:
        fits = self.held + size <= self._most
        return fits and all(other.times_passed < MOST_PASSED for other in self._before(share))

    def _before(self, share: MemoryShare) -> list[MemoryShare]:
        return self._waiting[: self._waiting.index(share)]

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
        self.times_passed = 0
        """How many recordings that asked later have taken their share before this one."""

    @property
    def taken(self) -> bool:
        """Whether the recording has its share."""
        return bool(self.size)

    def take(self, size: int) -> None:
        """Waits until there is room for `size` bytes. Raises `MotetError`: too_large if there never will be, overloaded if
        there is none in time, and timeout if the share is closed."""
        self._memory._take(self, size)

    def close(self) -> None:
        """Gives the share back, or ends its wait. Safe to call twice."""
        self._memory._give_back(self)


def _too_large(size: int, most_bytes: int) -> MotetError:
    cause = (
        f"Cutting this recording takes {size / 2**20:,.0f} MB of decoded sound; the limit is {most_bytes / 2**20:,.0f}."
    )
    remedy = "Send fewer channels or a lower sample rate, or, if it is to be separated, ask for shorter chunks."
    return fail("too_large", cause, remedy, code="decoded_sound_too_large")


def _waited_too_long(most_wait_s: float) -> MotetError:
    cause = f"For {most_wait_s:g} seconds, other recordings left too little memory for the sound of this one."
    remedy = f"Try again in {most_wait_s:.0f} s."
    return fail("overloaded", cause, remedy, code="too_many_recordings", retry_after_s=most_wait_s)


@contextmanager
def without_permit(permits: threading.Semaphore) -> Iterator[None]:
    """Lets another thread have this one's permit meanwhile."""
    permits.release()
    try:
        yield
    finally:
        permits.acquire()
