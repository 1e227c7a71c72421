"""Holds that work grows no faster than its input."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

FLOOR_S = 0.004
"""What any call may take on a busy machine."""
MOST_TIMES = 8.0
"""Of the time for n, that four times as much may take: it is 4 where the work is linear, and 16 where it is quadratic."""
ATTEMPTS = 8
"""The least time of several counts: on a busy machine one alone says little. The first good one ends the check."""


def check_growth(work: Callable[[int], Callable[[], Any]], size: int) -> None:
    """`work(n)` prepares an input of size n and returns what is to be measured. Time is the processor's, of this process."""
    small, large = work(size), work(4 * size)
    least_small = least_large = float("inf")
    for _ in range(ATTEMPTS):
        least_small, least_large = min(least_small, _seconds(small)), min(least_large, _seconds(large))
        if least_large <= MOST_TIMES * least_small + FLOOR_S:
            return
    raise AssertionError(f"{size}: {least_small * 1000:.2f} ms; {4 * size}: {least_large * 1000:.2f} ms")


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin
