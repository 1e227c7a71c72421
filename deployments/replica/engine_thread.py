"""The thread of an engine.

MLX streams, CUDA graphs and models that are not thread-safe must be loaded and called on one thread, and the replica's
event loop must stay free. The thread measures how long its current call runs, which shows a stuck model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from deployments.errors import fail
from deployments.replica.error_log import log_error

P = ParamSpec("P")
T = TypeVar("T")


class EngineThread:
    """Runs calls one after another on a thread of its own."""

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._clock = clock
        self._busy_since: float | None = None

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls `function` on the thread; returns or raises what it does."""
        call = asyncio.get_running_loop().run_in_executor(self._pool, lambda: self._timed(function, *args, **kwargs))
        return await call

    def submit(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Queues a call and returns at once. The result is discarded; an exception is logged with its traceback."""
        self._pool.submit(lambda: self._logged(function, *args, **kwargs))

    def _logged(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            self._timed(function, *args, **kwargs)
        except Exception as error:
            log_error(f"A call on the engine's thread failed: {getattr(function, '__qualname__', function)}", error)

    def _timed(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._busy_since = self._clock()
        try:
            return function(*args, **kwargs)
        finally:
            self._busy_since = None

    @property
    def busy_seconds(self) -> float:
        """How long the current call has been running, in seconds; 0 while the thread is idle."""
        since = self._busy_since
        return 0.0 if since is None else self._clock() - since

    def check(self, limit_seconds: float) -> None:
        """Raises `MotetError` (unavailable) if the current call has run for longer than `limit_seconds`."""
        if self.busy_seconds > limit_seconds:
            raise fail(
                "unavailable",
                f"The model has been in one step for {self.busy_seconds:.0f} s.",
                "The replica is restarted.",
                code="engine_stuck",
            )

    def stop(self) -> None:
        """Lets the current call end and refuses further ones."""
        self._pool.shutdown(wait=False, cancel_futures=True)
