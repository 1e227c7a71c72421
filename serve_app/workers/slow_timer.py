"""Wakes the main thread of an idle Ray worker twice a second instead of a hundred times.

Ray 2.60 lets the main thread of every worker look for signals every 10 ms (`CoreWorker::RunTaskExecutionLoop`), and has no
setting for it. The wake-ups cost an idle worker half a percent of a core, which is most of what an idle service uses. The
thread waits in epoll for calls, which wake it at once through a descriptor of their own, and for a timer. This module gives
Boost.Asio, which arms that timer, another one in its place, and fires the real one itself. So calls are as fast as before;
a signal, or the end of an actor, is noticed within `PERIOD_S`.

Only Linux on x86-64, where this was tested: elsewhere, and where the thread waits in another way, nothing is changed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
import threading
import time
from pathlib import Path

PERIOD_S = 0.5

EPOLL_WAIT = "232"
"""The number of the system call, of x86-64."""
EPOLL_CTL_MOD = 3
EPOLLIN, EPOLLET = 0x1, 0x8000_0000
CLOCK_MONOTONIC = 1
TFD_CLOEXEC = os.O_CLOEXEC

Watched = tuple[int, int]
"""A descriptor, and the data that its epoll returns with events of it."""


class _EpollEvent(ctypes.Structure):
    _pack_ = 1  # on x86-64
    _fields_ = [("events", ctypes.c_uint32), ("data", ctypes.c_uint64)]


class _TimerSpec(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("interval_s", "interval_ns", "value_s", "value_ns")]


_library = ctypes.CDLL(None, use_errno=True)


def start() -> None:
    """Starts a thread that slows the timer of the main thread; it does nothing on other systems."""
    if (sys.platform, platform.machine()) == ("linux", "x86_64"):
        threading.Thread(target=_run, name="slow_timer", daemon=True).start()


def _run() -> None:
    taken = None
    while True:
        time.sleep(PERIOD_S)
        if taken is not None:
            fire(taken)
        elif (epoll := awaited_epoll(os.getpid())) is not None and (timer := timer_in(epoll)) is not None:
            taken = take_over(epoll, timer)


def awaited_epoll(thread: int) -> int | None:
    """The epoll descriptor that a thread of this process waits for now."""
    try:
        words = Path(f"/proc/self/task/{thread}/syscall").read_text().split()
    except OSError:
        return None
    return int(words[1], 16) if words[0] == EPOLL_WAIT else None


def timer_in(epoll: int) -> Watched | None:
    """The only timer that an epoll watches."""
    lines = Path(f"/proc/self/fdinfo/{epoll}").read_text()
    watched = re.findall(r"^tfd:\s*(\d+) events:\s*[0-9a-f]+ data:\s*([0-9a-f]+)", lines, re.MULTILINE)
    timers = [(int(number), int(data, 16)) for number, data in watched if _is_timer(number)]
    return timers[0] if len(timers) == 1 else None


def _is_timer(number: str) -> bool:
    return Path(f"/proc/self/fd/{number}").readlink() == Path("anon_inode:[timerfd]")


def take_over(epoll: int, timer: Watched) -> int:
    """Gives the number of the watched timer to a new timer, and returns another descriptor of the watched one.

    The epoll still watches the first timer, because it is still open. It reports each expiry once (EPOLLET): Boost.Asio would
    acknowledge it by arming the timer again, and now arms the new one. Raises `OSError`.
    """
    number, data = timer
    taken = os.dup(number)
    _check(_library.epoll_ctl(epoll, EPOLL_CTL_MOD, number, ctypes.byref(_EpollEvent(EPOLLIN | EPOLLET, data))))
    other = _check(_library.timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC))
    os.dup2(other, number, inheritable=False)
    os.close(other)
    return taken


def fire(timer: int) -> None:
    """The timer expires now, once. Raises `OSError`."""
    _check(_library.timerfd_settime(timer, 0, ctypes.byref(_TimerSpec(0, 0, 0, 1)), None))


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
