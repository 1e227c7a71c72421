"""Freed memory goes back to the system when it is time and worth it."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

import pytest

from deployments.heap import EVERY_S, WORTH_BYTES, Heap, process_allocator


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
    step = Heap(allocator, clock).watched(list)
    given = []
    for clock.now in (0.0, EVERY_S - 1, EVERY_S, EVERY_S + 1, 2 * EVERY_S):
        allocator.free = WORTH_BYTES * (2 if clock.now > EVERY_S else 1)
        assert step([1, 2]) == [1, 2]
        given.append(allocator.given)
    assert given == [0, 0, 1, 1, 2]


def test_what_was_given_back_and_not_used_again_is_not_given_back_again() -> None:
    allocator, clock = Kept(WORTH_BYTES), Clock()  # one that counts what it gave back
    heap = Heap(allocator, clock)
    given = []
    for number, allocator.free in enumerate([WORTH_BYTES, WORTH_BYTES, 2 * WORTH_BYTES, 0, WORTH_BYTES], start=1):
        clock.now = number * EVERY_S
        heap.look()
        given.append(allocator.given)
    assert given == [1, 1, 2, 2, 3]


def test_little_is_kept_for_the_next_step() -> None:
    allocator, clock = Kept(WORTH_BYTES - 1), Clock()
    heap = Heap(allocator, clock)
    clock.now = EVERY_S
    heap.look()
    assert not allocator.given


def test_a_step_that_fails_is_looked_after_too() -> None:
    allocator, clock = Kept(WORTH_BYTES), Clock()

    def failing(items: object) -> list[int | Exception]:
        raise ValueError("poison")

    step = Heap(allocator, clock).watched(failing)
    clock.now = EVERY_S
    with pytest.raises(ValueError, match="poison"):
        step([1])
    assert allocator.given == 1


def test_without_such_an_allocator_a_call_stays_itself() -> None:
    heap = Heap(None)
    assert heap.watched(list) is list
    heap.look()


def test_glibc_gives_back_the_pieces_between_others() -> None:
    allocator = process_allocator()
    if allocator is None:
        pytest.skip("this C library cannot be told to give memory back")
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    pieces = [library.malloc(100_000) for _ in range(400)]
    before = allocator.kept()
    for piece in pieces[::2]:
        library.free(piece)
    assert allocator.kept() - before > 15_000_000
    resident = _resident()
    allocator.give_back()
    after = _resident()
    for piece in pieces[1::2]:
        library.free(piece)
    assert after <= resident


def test_glibc_keeps_what_a_step_frees_for_the_next_one() -> None:
    if process_allocator() is None:
        pytest.skip("this C library cannot be told to keep memory")
    library, size = ctypes.CDLL(None), 64_000_000
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    piece = library.malloc(size)
    ctypes.memset(piece, 1, size)
    used = _resident()
    library.free(piece)
    assert (used - _resident()) * resource.getpagesize() < size / 4


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])
