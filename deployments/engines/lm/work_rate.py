"""Estimates how much work fits in a time, from the measured speed of such work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

NEWEST_SHARE = 0.25
"""Weight of the newest measurement in the average: a pause of the system is forgotten within a few steps."""


@dataclass(slots=True)
class WorkRate:
    """The moving average of the seconds for one unit of work; None before the first measurement."""

    clock: Callable[[], float] = time.perf_counter
    seconds_each: float | None = None

    @contextmanager
    def measuring(self, units: int) -> Iterator[None]:
        """Measures a block that does `units` units of work; a block that raises does not count."""
        started = self.clock()
        yield
        if units:
            each = (self.clock() - started) / units
            before = each if self.seconds_each is None else self.seconds_each
            self.seconds_each = before + NEWEST_SHARE * (each - before)

    def units_in(self, seconds: float) -> int:
        """The units that fit in this many seconds; 0 before the first measurement."""
        return max(0, int(seconds / self.seconds_each)) if self.seconds_each else 0
