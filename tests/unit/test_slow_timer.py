"""Another thread fires the timer of the event loop; other events still wake the loop."""

from __future__ import annotations

import ctypes
import os
import platform
import select
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from serve_app.workers import slow_timer

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the module does nothing on other systems"
)

AT_ONCE_NS = 1
PATIENCE_S = 10.0


@dataclass
class Loop:
    """What Boost.Asio's event loop waits for: its timer, and a descriptor that tells of calls."""

    epoll: select.epoll
    timer: int
    calls: int

    def arm(self) -> None:
        """The loop's own way to be woken in a moment."""
        spec = slow_timer._TimerSpec(0, 0, 0, AT_ONCE_NS)
        assert ctypes.CDLL(None).timerfd_settime(self.timer, 0, ctypes.byref(spec), None) == 0

    def call(self) -> None:
        """A call arrives."""
        os.write(self.calls, (1).to_bytes(8, sys.byteorder))

    def woken_by(self, patience_s: float = PATIENCE_S) -> list[int]:
        """The descriptors that wake it."""
        return [descriptor for descriptor, _ in self.epoll.poll(patience_s)]


@pytest.fixture
def loop() -> Iterator[Loop]:
    library = ctypes.CDLL(None)
    with select.epoll() as epoll:
        timer, calls = (
            library.timerfd_create(slow_timer.CLOCK_MONOTONIC, os.O_CLOEXEC),
            library.eventfd(0, os.O_CLOEXEC),
        )
        epoll.register(timer, select.EPOLLIN)
        epoll.register(calls, select.EPOLLIN | select.EPOLLET)
        yield Loop(epoll, timer, calls)
        os.close(timer)
        os.close(calls)


@pytest.fixture
def taken(loop: Loop) -> Iterator[int]:
    timer = slow_timer.timer_in(loop.epoll.fileno())
    assert timer is not None
    assert (timer[0], timer[1] & 0xFFFF_FFFF) == (loop.timer, loop.timer)  # Python sets half of what is given back
    descriptor = slow_timer.take_over(loop.epoll.fileno(), timer)
    yield descriptor
    os.close(descriptor)


def test_a_loop_is_woken_by_its_timer_until_it_is_taken(loop: Loop) -> None:
    loop.arm()
    assert loop.woken_by() == [loop.timer]


def test_the_loop_arms_another_timer_and_is_woken_once_for_each_time_that_its_own_fires(loop: Loop, taken: int) -> None:
    for _ in range(3):
        loop.arm()
        slow_timer.fire(taken)
        assert loop.woken_by() == [loop.timer]
        assert loop.woken_by(0) == []


def test_what_the_loop_arms_wakes_nobody(loop: Loop, taken: int) -> None:
    loop.arm()
    assert select.select([loop.timer], [], [], PATIENCE_S)[0] == [loop.timer]  # it has expired
    assert loop.woken_by(0) == []


def test_a_call_wakes_the_loop_at_once(loop: Loop, taken: int) -> None:
    loop.call()
    assert loop.woken_by() == [loop.calls]


def test_a_loop_with_two_timers_or_none_is_left_alone(loop: Loop) -> None:
    second = ctypes.CDLL(None).timerfd_create(slow_timer.CLOCK_MONOTONIC, os.O_CLOEXEC)
    loop.epoll.register(second, select.EPOLLIN)
    assert slow_timer.timer_in(loop.epoll.fileno()) is None
    os.close(second)
    with select.epoll() as empty:
        assert slow_timer.timer_in(empty.fileno()) is None


def test_a_thread_that_waits_for_no_epoll_is_left_alone() -> None:
    waiting, over = threading.Event(), threading.Event()
    number: list[int] = []

    def wait() -> None:
        number.append(threading.get_native_id())
        waiting.set()
        over.wait(PATIENCE_S)

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait(PATIENCE_S)
    assert slow_timer.awaited_epoll(number[0]) is None
    over.set()
    thread.join()
    assert slow_timer.awaited_epoll(number[0]) is None
