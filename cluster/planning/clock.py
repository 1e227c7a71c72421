"""Simulated time: a clock for the service's policies, and calls that are due later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import simpy


class DueCall:
    """A call that is due later, unless it is cancelled."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """The call does not happen."""
        self._call = None

    def __call__(self, event: simpy.Event) -> None:
        """The call is due."""
        if self._call is not None:
            call, self._call = self._call, None
            call()


class SimulatedTime:
    """A discrete-event simulation's clock, in seconds."""

    def __init__(self) -> None:
        self.environment = simpy.Environment()

    def now(self) -> float:
        """The time, in seconds from the start."""
        now_s: float = self.environment.now
        return now_s

    def later(self, delay_s: float, call: Callable[[], None]) -> DueCall:
        """Calls a function after a time."""
        due = DueCall(call)
        callbacks = self.environment.timeout(delay_s).callbacks
        assert callbacks is not None, "a new timeout has not happened yet"
        callbacks.append(due)
        return due

    def process(self, steps: Iterator[float]) -> None:
        """Runs a generator, which yields the seconds until it goes on."""

        def run() -> Any:
            for delay_s in steps:
                yield self.environment.timeout(delay_s)

        self.environment.process(run())

    def run_until(self, until_s: float) -> None:
        """Lets everything happen that is due before a time."""
        self.environment.run(until=until_s)
