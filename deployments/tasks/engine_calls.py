"""How a task's driver calls an engine: a bounded number of calls ahead, with their results in order.

A driver does not know where its engine runs. On a replica a call passes the step gate; in the gateway it is a remote call
whose result travels by reference; the command line and bulk jobs call an engine in their own process (`LocalBatch`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)

Advance = Callable[[Sequence[Item]], list[Result | Exception]]
"""An engine's method: one result or exception for each item, as one batch."""


class Cancellable(Protocol):
    """A call that has been started."""

    def cancel(self) -> object:
        """Gives the call up. Does nothing after its end."""


class Call(Cancellable, Protocol[Result_co]):
    """A call that has been started, and gives one result or raises what the engine returned in its place."""

    def __await__(self) -> Generator[Any, Any, Result_co]: ...


Started = TypeVar("Started", bound=Cancellable)


async def in_order(
    take: Callable[[], Awaitable[Item | None]], start: Callable[[Item], Started], width: int
) -> AsyncGenerator[tuple[Item, Started]]:
    """Items with their started calls, in order; at most `width` calls are under way.

    `take` gives the next item, and None after the last. Calls that the caller has not reached are cancelled at the end.
    """
    running: deque[tuple[Item, Started]] = deque()
    ended = False
    try:
        while True:
            while not ended and len(running) < width:
                item = await take()
                if item is None:
                    ended = True
                else:
                    running.append((item, start(item)))
            if not running:
                return
            yield running[0]
            running.popleft()
    finally:
        for _, call in running:
            call.cancel()


MOST_HELD = 2
"""Calls whose results the caller has not taken yet, at most, as a multiple of the width."""


async def in_order_ahead(
    take: Callable[[], Awaitable[Item | None]],
    start: Callable[[Item, Callable[[], None]], Started],
    width: Callable[[], int],
) -> AsyncGenerator[tuple[Item, Started]]:
    """As `in_order`, on an event loop: items are taken beside the caller, so an item that is long in coming holds back no
    earlier result.

    `start` gets a function to call when the call has its result: then another may start, though its result waits for that of
    an earlier one. Calls that do not say so end when the caller has taken them. `width` may change; one call is always
    allowed. Raises what `take` raises after the items before it.
    """
    calls: asyncio.Queue[tuple[Item, Started, _Place] | None] = asyncio.Queue()
    places = _Places(width)

    async def fill() -> None:
        while True:
            await places.free()
            item = await take()
            if item is None:
                return
            place = places.one()
            calls.put_nowait((item, start(item, place.answered), place))

    filling = asyncio.create_task(fill())
    filling.add_done_callback(lambda _: calls.put_nowait(None))
    filling.add_done_callback(forget)
    entry: tuple[Item, Started, _Place] | None = None
    try:
        while (entry := await calls.get()) is not None:
            yield entry[0], entry[1]
            entry[2].taken()
        await filling
    finally:
        filling.cancel()
        while entry is not None or not calls.empty():
            if entry is not None:
                entry[1].cancel()
            entry = None if calls.empty() else calls.get_nowait()


class _Places:
    """Counts calls without a result, and those whose results were not taken."""

    def __init__(self, width: Callable[[], int]) -> None:
        self._width = width
        self.unanswered = self.held = 0
        self.changed = asyncio.Event()

    async def free(self) -> None:
        while self.unanswered >= (most := max(1, self._width())) or self.held >= MOST_HELD * most:
            self.changed.clear()
            await self.changed.wait()

    def one(self) -> _Place:
        self.unanswered += 1
        self.held += 1
        return _Place(self)


class _Place:
    """One call's place."""

    def __init__(self, places: _Places) -> None:
        self._places = places
        self._answered = False

    def answered(self) -> None:
        """Its result is there. Safe to call twice."""
        if not self._answered:
            self._answered = True
            self._places.unanswered -= 1
            self._places.changed.set()

    def taken(self) -> None:
        """The caller has it."""
        self.answered()
        self._places.held -= 1
        self._places.changed.set()


def forget(call: asyncio.Task[Any]) -> None:
    """Retrieves the exception of a task that is not awaited; otherwise asyncio logs it as never retrieved."""
    if not call.cancelled():
        call.exception()


async def next_here(items: Iterator[Item]) -> Item | None:
    """The next item, computed by the caller's thread; None after the last."""
    return next(items, None)


class LocalBatch(Generic[Item, Result]):
    """Calls an engine in this process, on the thread that awaits.

    The first await of a call without a result makes one batch of all calls that wait. So the driver's `width` is the largest
    batch, and which items share a batch depends on their order only.
    """

    def __init__(self, advance: Advance[Item, Result]) -> None:
        self._advance = advance
        self._waiting: dict[LocalCall[Item, Result], Item] = {}

    def start(self, item: Item) -> LocalCall[Item, Result]:
        """Adds an item to the next batch."""
        call = LocalCall(self)
        self._waiting[call] = item
        return call

    def advance(self) -> None:
        """Calls the engine with everything that waits."""
        waiting, self._waiting = self._waiting, {}
        results = advance_or_halve(self._advance, list(waiting.values()))
        for call, result in zip(waiting, results, strict=True):
            call.result = result

    def drop(self, call: LocalCall[Item, Result]) -> None:
        """Removes a call from the next batch."""
        self._waiting.pop(call, None)


class LocalCall(Generic[Item, Result]):
    """A call in a `LocalBatch`. It can be awaited more than once, and its await never suspends."""

    def __init__(self, batch: LocalBatch[Item, Result]) -> None:
        self._batch = batch
        self.result: Result | Exception | None = None

    def __await__(self) -> Generator[Any, Any, Result]:
        return self._wait().__await__()

    async def _wait(self) -> Result:
        if self.result is None:
            self._batch.advance()
        assert self.result is not None
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def cancel(self) -> None:
        """Takes the call out of the next batch."""
        self._batch.drop(self)


class DoneCall(Generic[Result]):
    """A call that needs no engine: it gives a value, or raises an error, that was there before."""

    def __init__(self, result: Result | Exception) -> None:
        self._result = result

    def __await__(self) -> Generator[Any, Any, Result]:
        return self._give().__await__()

    async def _give(self) -> Result:
        if isinstance(self._result, Exception):
            raise self._result
        return self._result

    def cancel(self) -> None:
        """Does nothing."""


_END = object()


def run_here(items: AsyncGenerator[Item]) -> Generator[Item]:
    """Runs a driver whose calls are all local, without an event loop: none of its awaits suspends."""
    try:
        while (item := _sent(anext(items, _END))) is not _END:
            yield item
    finally:
        _sent(items.aclose())


def _sent(awaitable: Awaitable[Any]) -> Any:
    """The result of an awaitable that does not suspend."""
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration as done:
        return done.value
    return steps.throw(RuntimeError("The driver waits for something that is not in this process."))


def advance_or_halve(advance: Advance[Item, Result], items: Sequence[Item]) -> list[Result | Exception]:
    """One batch. If it fails as a whole, each half is tried once more, so that one bad item costs at most its half."""
    try:
        return one_for_each(advance(items), items)
    except Exception as error:
        if len(items) == 1:
            return [error]
        middle = len(items) // 2
        return [*_or_error(advance, items[:middle]), *_or_error(advance, items[middle:])]


def _or_error(advance: Advance[Item, Result], items: Sequence[Item]) -> list[Result | Exception]:
    try:
        return one_for_each(advance(items), items)
    except Exception as error:
        return [error] * len(items)


def one_for_each(results: list[Result | Exception], items: Sequence[Item]) -> list[Result | Exception]:
    """The results. Raises RuntimeError unless there are as many as items."""
    if len(results) != len(items):
        raise RuntimeError(f"the engine gave {len(results)} results for {len(items)} items")
    return results
