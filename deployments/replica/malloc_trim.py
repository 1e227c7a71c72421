"""Keeps freed memory for the next step, and returns it to the system now and then.

A step allocates and frees tensors of megabytes. By default glibc returns each of them at once, and the next step takes a page
fault for every 4 kB: a third of the time of VibeVoice's widest layers. So a replica keeps freed memory. Ragged batches need
ever new sizes, so a replica under load would come to hold several times of what it uses. Therefore `malloc_trim` returns
the free memory from time to time, at once if it is much, and more readily from an idle replica.

Measured against documented variables and jemalloc on 900 steps of hibari with 8 streams (RSS loaded / under load / idle, CPU
seconds a second of audio): this module 186 / 286 / 198 MB, 0.0046; `MALLOC_ARENA_MAX`, `MALLOC_TRIM_THRESHOLD_` and
`MALLOC_MMAP_THRESHOLD_` 259 / 291 / 291 MB, 0.0046; jemalloc with a decay of 10 s 209 / 264 / 205 MB, 0.0057.

A process without a model takes no steps, and returns freed memory at once (`return_freed_memory`).
"""

from __future__ import annotations

import ctypes
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

EVERY_S = 30.0
WORTH_BYTES = 256_000_000
"""Less than this is kept: the next step can use it."""
IDLE_WORTH_BYTES = 32_000_000
"""The same for an idle replica."""
SOON_S = 1.0
MUCH_BYTES = 1_000_000_000
"""This much is returned at once, without waiting for `EVERY_S`."""


class Allocator(Protocol):
    """An allocator that keeps freed memory."""

    def kept(self) -> int:
        """Bytes that the allocator holds and the process does not use, including the allocator's own overhead."""

    def give_back(self) -> None:
        """Returns whole free pages to the system."""


class MallocTrim:
    """Returns free memory now and then. Without an `allocator` it does nothing."""

    def __init__(self, allocator: Allocator | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._allocator = allocator
        self._clock = clock
        self._looked = self._gave = clock()
        self._rest = 0

    def look_when_idle(self) -> None:
        """`look` for an idle replica, which returns less, too."""
        self.look(IDLE_WORTH_BYTES)

    def look(self, worth_bytes: int = WORTH_BYTES) -> None:
        """Returns the memory that was freed since the last time, if it is much, or enough and `EVERY_S` have passed."""
        now = self._clock()
        if self._allocator is None or now - self._looked < SOON_S:
            return
        self._looked = now
        kept = self._allocator.kept()
        self._rest = min(self._rest, kept)
        if kept - self._rest >= (worth_bytes if now - self._gave >= EVERY_S else MUCH_BYTES):
            self.give_back()

    def give_back(self) -> None:
        """Returns all free memory, for example after a model was loaded."""
        if self._allocator is not None:
            self._allocator.give_back()
            self._looked = self._gave = self._clock()
            self._rest = self._allocator.kept()


class _Counts(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Parameters of `mallopt`: the free memory at the end of a heap that is kept, the size from which a block is mapped by itself
and returned when it is freed, and the number of heaps."""
KEPT_BYTES = 2**30
MAPPED_BYTES = 2**26
"""Blocks of this size are rare and fragment a heap: if they were kept, it would grow by gigabytes."""
MAPPED_BYTES_OF_HELPERS = 2**17
"""glibc's initial value. It would raise it to the largest block that was freed, up to 32 MB, and keep smaller ones in a
heap."""
MAPPED_BYTES_OF_OLD = 2**25
"""The largest value before glibc 2.35."""


class Glibc:
    """glibc 2.33 or newer, set to keep freed memory, in one heap for all threads."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.mallinfo2.restype = _Counts
        if not library.mallopt(MMAP_THRESHOLD, MAPPED_BYTES):
            library.mallopt(MMAP_THRESHOLD, MAPPED_BYTES_OF_OLD)
        library.mallopt(TRIM_THRESHOLD, KEPT_BYTES)
        library.mallopt(ARENA_MAX, 1)

    def kept(self) -> int:
        """The process's own resident bytes minus those in use. (glibc's count of free bytes includes returned ones.)"""
        counts = self._library.mallinfo2()
        resident, shared = (int(pages) for pages in Path("/proc/self/statm").read_text().split()[1:3])
        return (resident - shared) * resource.getpagesize() - int(counts.uordblks + counts.hblkhd)

    def give_back(self) -> None:
        """Returns all free pages. The next step takes a page fault for each page that it uses again."""
        self._library.malloc_trim(0)


def keep_freed_memory() -> Allocator | None:
    """Sets this process to keep freed memory, and returns its allocator; None, and no change, with other C libraries.

    Call it before the engine's thread is started: a thread that runs already may continue with a heap of its own.
    """
    library = ctypes.CDLL(None)
    return Glibc(library) if hasattr(library, "mallinfo2") and hasattr(library, "malloc_trim") else None


def return_freed_memory() -> None:
    """Sets this process to return large blocks as they are freed, with one heap for all threads.

    For processes that hold audio of many lengths on many threads: they would come to hold several times of what they use. No
    change with other C libraries.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(MMAP_THRESHOLD, MAPPED_BYTES_OF_HELPERS)
        library.mallopt(ARENA_MAX, 1)
