"""Freed memory returns to the system when it is worth it."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from deployments.replica.malloc_trim import (
    ARENA_MAX,
    EVERY_S,
    IDLE_WORTH_BYTES,
    KEPT_BYTES,
    MAPPED_BYTES_OF_OLD,
    MMAP_THRESHOLD,
    MUCH_BYTES,
    SOON_S,
    TRIM_THRESHOLD,
    WORTH_BYTES,
    Allocator,
    Glibc,
    MallocTrim,
    keep_freed_memory,
)
from deployments.replica.step_gate import followed_by


class Kept:
    """An allocator that keeps what a test says."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.given = 0

    def kept(self) -> int:
        return self.free

    def give_back(self) -> None:
        self.given += 1


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_much_is_given_back_but_not_at_every_step() -> None:
    allocator, clock = Kept(WORTH_BYTES), Clock()
    step = followed_by(list, MallocTrim(allocator, clock).look)
    given = []
    for clock.now in (0.0, EVERY_S - 1, EVERY_S, EVERY_S + 1, 2 * EVERY_S):
        allocator.free = WORTH_BYTES * (2 if clock.now > EVERY_S else 1)
        assert step([1, 2]) == [1, 2]
        given.append(allocator.given)
    assert given == [0, 0, 1, 1, 2]


def test_what_is_always_there_is_not_looked_for_again() -> None:
    allocator, clock = Kept(WORTH_BYTES), Clock()
    heap = MallocTrim(allocator, clock)
    given = []
    for number, allocator.free in enumerate([WORTH_BYTES, WORTH_BYTES, 2 * WORTH_BYTES, 0, WORTH_BYTES], start=1):
        clock.now = number * EVERY_S
        heap.look()
        given.append(allocator.given)
    assert given == [1, 1, 2, 2, 3]


def test_what_is_much_does_not_wait() -> None:
    allocator, clock = Kept(MUCH_BYTES), Clock()
    heap = MallocTrim(allocator, clock)
    given = []
    for clock.now, allocator.free in (
        (SOON_S / 2, MUCH_BYTES),
        (SOON_S, MUCH_BYTES),
        (2 * SOON_S, 2 * MUCH_BYTES - 1),
        (3 * SOON_S, 2 * MUCH_BYTES),
    ):
        heap.look()
        given.append(allocator.given)
    assert given == [0, 1, 1, 2]


def test_little_is_kept_for_the_next_step() -> None:
    allocator, clock = Kept(WORTH_BYTES - 1), Clock()
    heap = MallocTrim(allocator, clock)
    clock.now = EVERY_S
    heap.look()
    assert not allocator.given


HELPER = """
import ctypes, resource, sys
from deployments.replica.malloc_trim import return_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

if "returned" in sys.argv:
    return_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
library.free(library.malloc(16_000_000))
before = resident()
taken = []
for _ in range(40):
    for size in (2_000_000, 50_000):
        taken.append(library.malloc(size))
        ctypes.memset(taken[-1], 1, size)
for piece in taken[::2]:
    library.free(piece)
print(resident() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="another C library")
def test_a_helper_returns_what_it_frees() -> None:
    """Forty blocks of sound with something small behind each: by itself glibc keeps all of them."""
    kept = [
        int(subprocess.run([sys.executable, "-c", HELPER, how], capture_output=True, check=True, text=True).stdout)
        for how in ("kept", "returned")
    ]
    assert kept[0] > 60_000_000
    assert kept[1] < 10_000_000


def test_an_idle_process_gives_little_back_too() -> None:
    allocator, clock = Kept(IDLE_WORTH_BYTES), Clock()
    heap = MallocTrim(allocator, clock)
    given = []
    for clock.now, allocator.free in ((EVERY_S, IDLE_WORTH_BYTES - 1), (2 * EVERY_S, IDLE_WORTH_BYTES)):
        heap.look()
        heap.look_when_idle()
        given.append(allocator.given)
        clock.now += SOON_S
        heap.look_when_idle()
        given.append(allocator.given)
    assert given == [0, 0, 0, 1]


def test_after_loading_even_little_is_given_back_and_what_stays_is_not_looked_for_again() -> None:
    allocator, clock = Kept(WORTH_BYTES), Clock()
    heap = MallocTrim(allocator, clock)
    heap.give_back()
    clock.now = EVERY_S
    heap.look()
    assert allocator.given == 1


def test_a_step_that_fails_is_looked_after_too() -> None:
    allocator, clock = Kept(WORTH_BYTES), Clock()

    def failing(items: object) -> list[int | Exception]:
        raise ValueError("poison")

    step = followed_by(failing, MallocTrim(allocator, clock).look)
    clock.now = EVERY_S
    with pytest.raises(ValueError, match="poison"):
        step([1])
    assert allocator.given == 1


def test_without_such_an_allocator_nothing_is_given_back() -> None:
    heap = MallocTrim(None)
    heap.look()
    heap.give_back()


@pytest.fixture
def allocator() -> Allocator:
    if (found := keep_freed_memory()) is None:
        pytest.skip("this C library cannot be told what to do with memory")
    return found


def burst(pieces: int, size: int) -> Iterator[None]:
    """A step that fills pieces, then waits, and frees all but some between others."""
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    taken = [library.malloc(size) for _ in range(pieces)]
    for piece in taken:
        ctypes.memset(piece, 1, size)
    yield
    for piece in [*taken[:8:2], *taken[8:]]:
        library.free(piece)
    yield
    for piece in taken[1:8:2]:
        library.free(piece)


def test_glibc_gives_back_after_every_burst(allocator: Allocator) -> None:
    clock = Clock()
    heap = MallocTrim(allocator, clock)
    levels = []
    for _ in range(4):
        step = burst(80, 5_000_000)
        next(step)
        used = _resident()
        next(step)
        assert used - _resident() < 40_000_000, "it is kept for the next step"
        clock.now += EVERY_S
        heap.look()
        assert used - _resident() > 300_000_000
        next(step, None)
        levels.append(_resident())
    assert max(levels) - min(levels) < 100_000_000


def test_a_large_piece_that_is_freed_stays(allocator: Allocator) -> None:
    step = burst(9, 60_000_000)
    next(step)
    used = _resident()
    next(step)
    assert used - _resident() < 20_000_000
    next(step, None)
    allocator.give_back()


def test_an_old_glibc_maps_from_the_largest_size_that_it_takes() -> None:
    class Old:
        """Refuses what glibc 2.34 does."""

        def __init__(self) -> None:
            self.mallinfo2 = SimpleNamespace()
            self.told: dict[int, int] = {}

        def mallopt(self, name: int, value: int) -> int:
            if name == MMAP_THRESHOLD and value > MAPPED_BYTES_OF_OLD:
                return 0
            self.told[name] = value
            return 1

    library = Old()
    Glibc(cast(ctypes.CDLL, library))
    assert library.told == {MMAP_THRESHOLD: MAPPED_BYTES_OF_OLD, TRIM_THRESHOLD: KEPT_BYTES, ARENA_MAX: 1}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
