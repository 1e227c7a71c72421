"""What a step frees is kept for the next one, and now and then goes back to the system.

A step asks for tensors of megabytes and frees them. By itself glibc returns each of them at once, and the next step takes a
page fault for every 4 kB: a third of the time of VibeVoice's widest layers. So it is told to keep them. But ragged batches
ask for ever other sizes, and what is kept comes in pieces of which the next batch can use some only: a replica under load
would come to hold several times of what it uses, and an idle one go on holding it. So from time to time, and at once where it
is much, all of it is given back (`malloc_trim`). The step after that takes new pages, which is why it is not done often.
A replica that has nothing to do gives back less, too.

A process without a model takes no steps, and returns what it frees at once (`return_freed_memory`).
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
"""Of less than this, nothing is given back: a step may well use it again."""
IDLE_WORTH_BYTES = 32_000_000
"""Nor of less than this, when no step is about to come."""
SOON_S = 1.0
MUCH_BYTES = 1_000_000_000
"""So much is given back without waiting: it took as many page faults to get as it will take to get again."""


class Allocator(Protocol):
    """What keeps freed memory."""

    def kept(self) -> int:
        """Bytes of memory that are free, and some that are nobody's business but always there."""

    def give_back(self) -> None:
        """They become the system's, as far as they are whole pages."""


class MallocTrim:
    """Looks after a call that uses much memory. `allocator` None leaves everything as it is."""

    def __init__(self, allocator: Allocator | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._allocator = allocator
        self._clock = clock
        self._looked = self._gave = clock()
        self._rest = 0

    def look_when_idle(self) -> None:
        """The same where no step is about to come: less is worth it then."""
        self.look(IDLE_WORTH_BYTES)

    def look(self, worth_bytes: int = WORTH_BYTES) -> None:
        """Gives back what was freed since the last time, when it is much, or time and worth it."""
        now = self._clock()
        if self._allocator is None or now - self._looked < SOON_S:
            return
        self._looked = now
        kept = self._allocator.kept()
        self._rest = min(self._rest, kept)
        if kept - self._rest >= (worth_bytes if now - self._gave >= EVERY_S else MUCH_BYTES):
            self.give_back()

    def give_back(self) -> None:
        """Gives back all that is free, however little it is. What loading a model leaves is of no use to a step."""
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
"""`mallopt`'s names: how much free memory at its end a heap keeps, from which size on a piece is mapped by itself and
returned when it is freed, and how many heaps there are."""
KEPT_BYTES = 2**30
MAPPED_BYTES = 2**26
"""Pieces of this size are rare, and few fit into the place of another: kept, they make a heap grow by gigabytes."""
MAPPED_BYTES_OF_HELPERS = 2**17
"""glibc's own value at the start. By itself it raises it to the largest piece that was freed, up to 32 MB, and what is
smaller stays in the heap of the thread that asked for it."""
MAPPED_BYTES_OF_OLD = 2**25
"""The same before glibc 2.35, which takes no more."""


class Glibc:
    """The C library of most Linux systems, from version 2.33 on; told to keep what is freed, in one heap for all threads."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.mallinfo2.restype = _Counts
        if not library.mallopt(MMAP_THRESHOLD, MAPPED_BYTES):
            library.mallopt(MMAP_THRESHOLD, MAPPED_BYTES_OF_OLD)
        library.mallopt(TRIM_THRESHOLD, KEPT_BYTES)
        library.mallopt(ARENA_MAX, 1)

    def kept(self) -> int:
        """The process's own resident bytes, without those in use. (glibc's count of free bytes has those that went back.)"""
        counts = self._library.mallinfo2()
        resident, shared = (int(pages) for pages in Path("/proc/self/statm").read_text().split()[1:3])
        return (resident - shared) * resource.getpagesize() - int(counts.uordblks + counts.hblkhd)

    def give_back(self) -> None:
        """Looks through everything free; the next step then takes a page fault for every page it takes again."""
        self._library.malloc_trim(0)


def keep_freed_memory() -> Allocator | None:
    """From now on this process keeps what is freed. Gives its allocator; None, and no change, on macOS and with other
    C libraries. A thread that runs already may go on with a heap of its own, so this comes before the engine's is started.
    """
    library = ctypes.CDLL(None)
    return Glibc(library) if hasattr(library, "mallinfo2") and hasattr(library, "malloc_trim") else None


def return_freed_memory() -> None:
    """From now on this process returns large pieces as they are freed, and keeps one heap for all threads. For processes that
    hold sound for a while, of ever other lengths and on many threads: they would come to hold several times of what they
    use. No change with C libraries that do not know these settings."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(MMAP_THRESHOLD, MAPPED_BYTES_OF_HELPERS)
        library.mallopt(ARENA_MAX, 1)
