"""An event loop whose clock jumps to whatever happens next, so that nothing is waited for."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


class JumpingSelector(selectors.DefaultSelector):
    """Waits for nothing: time jumps to when the wait would be over."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing will ever happen again"
        self.now += timeout
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = JumpingSelector()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """`AtOnce` has no threads. asyncio would wait for another thread, which this clock does not know."""


class AtOnce(ThreadPoolExecutor):
    """Does what is asked for on the spot: work on another thread takes time that this clock does not know."""

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        done: Future[Result] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def run(test: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Runs a test; whatever tasks it leaves behind are an error."""

    async def whole() -> Result:
        result = await test()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.get_loop().set_default_executor(AtOnce())
        return runner.run(whole())


def now() -> float:
    return asyncio.get_running_loop().time()
