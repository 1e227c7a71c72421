"""The step gate and the `@serve.batch` call that every deployment with a model shares.

`@serve.batch` closes a batch when its wait ends, not when the model is free, so callers that arrived at different moments
would stay out of step for ever. Every caller therefore waits at a gate until the engine is idle; then the gate chooses who
goes into the next step (`scheduling.choose`) and lets them into the batch together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ray import serve

from deployments.replica.engine_thread import EngineThread
from deployments.replica.metrics import StepMetrics
from deployments.replica.step_scheduling import Candidate, StepRequest, choose, padding_share
from deployments.settings import StepSettings
from deployments.tasks.engine_calls import advance_or_halve

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Stepped(Generic[Result]):
    """What a step brought one item, how long the item waited for the step, and how long the step took, in seconds."""

    result: Result
    waited_s: float
    took_s: float


class StepGate(Generic[Item]):
    """Holds callers while a step runs, and lets the chosen ones through when it ends.

    When a step ends its callers come back for the next one within a moment; the gate waits that moment (`batch_wait_ms`),
    or until everyone who has a stream open is back.
    """

    def __init__(self, settings: StepSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.streams = 0
        self._clock = clock
        self._waiting: dict[Candidate[Item], asyncio.Future[int]] = {}
        self._expected = 0
        self._settling: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Callers at the gate."""
        return len(self._waiting)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Counts a stream that will come for step after step."""
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1
            if self._waiting:
                self._open_if_due()  # the rest may be complete without it

    @asynccontextmanager
    async def turn(self, candidate: Candidate[Item]) -> AsyncIterator[int]:
        """Waits for this candidate's turn; gives how many go with it. The turn ends with the context."""
        turn = self._waiting[candidate] = asyncio.get_running_loop().create_future()
        self._open_if_due()
        try:
            together = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._end_one()  # it was let through in the same moment as its caller left
            raise
        finally:
            del self._waiting[candidate]
        try:
            yield together
        finally:
            self._end_one()

    def _end_one(self) -> None:
        self._expected -= 1
        if self._expected == 0:
            wait_s = self.settings.batch_wait_ms / 1000
            self._settling = asyncio.get_running_loop().call_later(wait_s, self._settled)

    def _settled(self) -> None:
        self._settling = None
        self._open()

    def _open_if_due(self) -> None:
        """At once when the engine has been idle; after a step, when everyone is back."""
        if self._expected > 0:
            return
        if self._settling is None:
            self._open()
        elif len(self._waiting) >= min(max(self.streams, 1), self.settings.max_batch_size):
            self._settling.cancel()
            self._settled()

    def _open(self) -> None:
        pending = [candidate for candidate, turn in self._waiting.items() if not turn.done()]
        chosen = choose(pending, self.settings, self._clock())
        self._expected = len(chosen)
        for candidate in chosen:
            self._waiting[candidate].set_result(len(chosen))


class Stepper(Generic[Item, Result]):
    """Calls `advance` on the engine's thread with the items of many callers at once."""

    def __init__(
        self,
        advance: Callable[[Sequence[Item]], list[Result | Exception]],
        thread: EngineThread,
        settings: StepSettings,
        metrics: StepMetrics,
    ) -> None:
        self._advance = advance
        self._thread = thread
        self._metrics = metrics
        self._settings = settings
        self.gate: StepGate[Item] = StepGate(settings)
        # The decorator adds setters to the function it wraps; a type checker cannot see them.
        self._batch: Any = self._step_together
        self.configure(settings)

    def configure(self, settings: StepSettings) -> None:
        """Takes new settings while running."""
        self._settings = self.gate.settings = settings
        self._batch.set_max_batch_size(settings.max_batch_size)
        self._batch.set_batch_wait_timeout_s(settings.batch_wait_ms / 1000)

    async def step(self, item: Item, wish: StepRequest) -> Stepped[Result]:
        """This item's part of the next step. Raises what the engine returned for it."""
        candidate, came = Candidate(item, wish), time.monotonic()
        if not self._settings.gate:
            return _raised(await self._step_together(candidate), came)
        async with self.gate.turn(candidate) as together:
            self._metrics.waited(time.monotonic() - came)
            # The batch is full, and so closes, with the last of those that the gate let through.
            self._batch.set_max_batch_size(together)
            return _raised(await self._step_together(candidate), came)

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.001)
    async def _step_together(self, candidates: list[Candidate[Item]]) -> list[_Outcome[Result]]:
        started = time.monotonic()
        try:
            results = await self._thread.run(advance_or_halve, self._advance, [c.item for c in candidates])
        finally:
            padding = padding_share([c.wish.cost for c in candidates])
            self._metrics.stepped(len(candidates), time.monotonic() - started, padding)
        ended = time.monotonic()
        return [_Outcome(result, started, ended) for result in results]


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[Result]):
    """One item's part of a step that began and ended at these times of the monotonic clock."""

    result: Result | Exception
    started: float
    ended: float


def _raised(outcome: _Outcome[Result], came: float) -> Stepped[Result]:
    if isinstance(outcome.result, Exception):
        raise outcome.result
    return Stepped(outcome.result, outcome.started - came, outcome.ended - outcome.started)
