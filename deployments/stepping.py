"""The step gate and the `@serve.batch` call that every deployment with a model shares.

`@serve.batch` closes a batch when its wait ends, not when the model is free, so callers that arrived at different moments
would stay out of step for ever. Every caller therefore waits until the engine is idle before it enters the batch: whoever
came while a step ran goes into the next one together.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from ray import serve

from deployments.engine_thread import EngineThread
from deployments.settings import StepSettings

Item = TypeVar("Item")
Result = TypeVar("Result")


class StepGate:
    """Open while the engine is idle."""

    def __init__(self) -> None:
        self._idle = asyncio.Event()
        self._idle.set()

    async def wait_until_idle(self) -> None:
        """Returns at once when no step runs, otherwise when the present one ends."""
        await self._idle.wait()

    @asynccontextmanager
    async def step(self) -> AsyncIterator[None]:
        """Closes the gate for the length of one step."""
        self._idle.clear()
        try:
            yield
        finally:
            self._idle.set()


class Stepper(Generic[Item, Result]):
    """Calls `advance` on the engine's thread with the items of many callers at once."""

    def __init__(
        self,
        advance: Callable[[Sequence[Item]], list[Result | Exception]],
        thread: EngineThread,
        settings: StepSettings,
    ) -> None:
        self._advance = advance
        self._thread = thread
        self._gate = StepGate()
        self.configure(settings)

    def configure(self, settings: StepSettings) -> None:
        """Takes new sizes and waits while running."""
        # The decorator adds these setters to the function it wraps; a type checker cannot see them.
        batched: Any = self._step_together
        batched.set_max_batch_size(settings.max_batch_size)
        batched.set_batch_wait_timeout_s(settings.batch_wait_ms / 1000)

    async def step(self, item: Item) -> Result:
        """This item's part of the next step. Raises what the engine returned for it."""
        await self._gate.wait_until_idle()
        result: Result | Exception = await self._step_together(item)
        if isinstance(result, Exception):
            raise result
        return result

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.001)
    async def _step_together(self, items: list[Item]) -> list[Result | Exception]:
        async with self._gate.step():
            return await self._thread.run(self._advance, items)
