"""Worker threads that each work on one utterance, for an engine whose network takes one sentence at a time.

If a step waited for all of its utterances, it would take as long as the longest. So a step ends as soon as one utterance is
done. The threads continue with the others, and a later step collects their results. The caller chooses which utterance gets
the next free thread, so a new utterance waits only for the first thread that becomes free.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Generic, TypeVar

Result = TypeVar("Result")

SMOOTHING = 0.2
"""Weight of the newest step in the moving average of the speed."""


class UtteranceThreads(Generic[Result]):
    """`count` worker threads. All methods run on the engine's thread; the calls run on the workers."""

    def __init__(self, count: int, name: str) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._under_way: dict[object, Future[Result]] = {}
        self._forgotten: list[Future[Result]] = []

    def step(self, calls: Mapping[object, Callable[[], Result]]) -> dict[object, Result | Exception]:
        """Starts calls in their order while a thread is free, and waits until at least one of `calls` is done, started in
        this step or before. Returns the results that are done by their key; an exception that a call raised is its result."""
        while True:
            self._begin(calls)
            mine = [key for key in calls if key in self._under_way]
            if not calls or any(self._under_way[key].done() for key in mine):
                return {key: self._take(key) for key in mine if self._under_way[key].done()}
            # Another utterance may end first: its thread then takes a call that waits here.
            wait(self._running(), return_when=FIRST_COMPLETED)

    def forget(self, key: object) -> None:
        """Drops the result for this key. A call that has started runs to its end."""
        if (call := self._under_way.pop(key, None)) is not None:
            self._forgotten.append(call)

    def _begin(self, calls: Mapping[object, Callable[[], Result]]) -> None:
        for key, call in calls.items():
            if key not in self._under_way and len(self._running()) < self.count:
                self._under_way[key] = self._pool.submit(call)

    def _running(self) -> list[Future[Result]]:
        self._forgotten = [call for call in self._forgotten if not call.done()]
        return [call for call in self._under_way.values() if not call.done()] + self._forgotten

    def _take(self, key: object) -> Result | Exception:
        call = self._under_way.pop(key)
        error = call.exception()
        if error is not None and not isinstance(error, Exception):
            raise error
        return call.result() if error is None else error


class StepPace:
    """How much text fits in a step of `step_s` seconds, from the measured speed."""

    def __init__(self, step_s: float, first_speed: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._step_s = step_s
        self._speed = first_speed
        self._clock = clock

    def fitting(self, parts: Sequence[Sequence[object]]) -> int:
        """The number of next parts that fit in a step: at least one, if there is any."""
        left = self._step_s * self._speed
        for number, part in enumerate(parts):
            left -= len(part)
            if left < 0:
                return max(1, number)
        return len(parts)

    @contextmanager
    def measured(self, length: int) -> Iterator[None]:
        """Measures the block, which works on parts of this total length."""
        began = self._clock()
        yield
        taken = max(self._clock() - began, 1e-6)
        self._speed += SMOOTHING * (length / taken - self._speed)
