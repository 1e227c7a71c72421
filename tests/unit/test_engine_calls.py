"""Drivers call engines ahead of need, in order, in batches that depend on the order of the items only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

import pytest

from deployments.tasks.engine_calls import LocalBatch, LocalCall, in_order, in_order_ahead, next_here, run_here


class Doubler:
    """An engine that doubles numbers and keeps its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def advance(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        return [ValueError(str(item)) if item < 0 else 2 * item for item in items]


async def doubled(items: Iterator[int], batch: LocalBatch[int, int], width: int) -> AsyncGenerator[int]:
    async for _, call in in_order(lambda: next_here(items), batch.start, width):
        yield await call


@pytest.mark.parametrize("width", [1, 3, 8])
def test_batches_are_neighbours_in_order(width: int) -> None:
    engine = Doubler()
    results = list(run_here(doubled(iter(range(10)), LocalBatch(engine.advance), width)))
    assert results == [2 * number for number in range(10)]
    assert engine.batches == [list(range(start, min(start + width, 10))) for start in range(0, 10, width)]


def test_no_more_items_are_taken_than_the_width() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = run_here(doubled(items(), LocalBatch(Doubler().advance), 4))
    assert next(results) == 0
    assert len(taken) == 4


def test_what_the_engine_returns_for_an_item_is_raised_and_the_rest_is_given_up() -> None:
    engine = Doubler()
    batch = LocalBatch(engine.advance)
    results = run_here(doubled(iter([1, -2, 3, 4, 5]), batch, 2))
    assert next(results) == 2
    with pytest.raises(ValueError, match="-2"):
        next(results)
    assert engine.batches == [[1, -2]]
    batch.start(7)
    batch.advance()
    assert engine.batches[1:] == [[7]]  # the call that had been started is in no later batch


def test_a_cancelled_call_is_in_no_batch() -> None:
    engine = Doubler()
    batch = LocalBatch(engine.advance)
    first, second = batch.start(1), batch.start(2)
    first.cancel()

    async def wait(call: LocalCall[int, int]) -> AsyncGenerator[int]:
        yield await call
        yield await call

    assert list(run_here(wait(second))) == [4, 4]
    assert engine.batches == [[2]]


async def test_a_local_driver_runs_beside_an_event_loop() -> None:
    """As in a notebook, where a loop runs already."""
    assert list(run_here(doubled(iter([1, 2]), LocalBatch(Doubler().advance), 2))) == [2, 4]


def test_a_driver_that_waits_is_refused() -> None:
    async def sleepy() -> AsyncGenerator[int]:
        await asyncio.sleep(0)
        yield 1

    with pytest.raises(RuntimeError, match="not in this process"):
        list(run_here(sleepy()))


class Arrivals:
    """Items that come when a test adds them, and the calls that were started with them."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[int | Exception | None] = asyncio.Queue()
        self.calls: dict[int, asyncio.Future[int]] = {}

    def add(self, *items: int | Exception | None) -> None:
        for item in items:
            self.items.put_nowait(item)

    async def take(self) -> int | None:
        item = await self.items.get()
        if isinstance(item, Exception):
            raise item
        return item

    def start(self, item: int, answered: Callable[[], None]) -> asyncio.Future[int]:
        call = self.calls[item] = asyncio.get_running_loop().create_future()
        call.add_done_callback(lambda _: answered())
        return call


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_result_is_given_while_the_next_item_is_still_to_come() -> None:
    arrivals = Arrivals()
    arrivals.add(1)
    calls = in_order_ahead(arrivals.take, arrivals.start, lambda: 4)
    assert (await anext(calls))[0] == 1
    later = asyncio.ensure_future(anext(calls))
    await settle()
    assert not later.done()
    arrivals.add(2, None)
    assert (await later)[0] == 2
    assert await anext(calls, None) is None


async def test_items_are_taken_ahead_up_to_a_width_that_may_change() -> None:
    arrivals, width = Arrivals(), 2
    arrivals.add(*range(9), None)
    calls = in_order_ahead(arrivals.take, arrivals.start, lambda: width)
    await anext(calls)
    await settle()
    assert set(arrivals.calls) == {0, 1}
    width = 4
    await anext(calls)
    await settle()
    assert set(arrivals.calls) == {0, 1, 2, 3, 4}
    width = 0
    assert [item async for item, _ in calls] == list(range(2, 9))


async def test_calls_start_while_the_results_of_others_wait_for_an_earlier_one() -> None:
    arrivals = Arrivals()
    arrivals.add(*range(9), None)
    calls = in_order_ahead(arrivals.take, arrivals.start, lambda: 2)
    await anext(calls)
    await settle()
    assert set(arrivals.calls) == {0, 1}
    arrivals.calls[1].set_result(1)
    await settle()
    assert set(arrivals.calls) == {0, 1, 2}
    for number in (2, 3):
        arrivals.calls[number].set_result(number)
        await settle()
    assert set(arrivals.calls) == {0, 1, 2, 3}, "at most twice the width is held"
    assert [item async for item, _ in calls] == list(range(1, 9))


async def test_what_taking_raises_comes_after_the_items_before_it() -> None:
    arrivals = Arrivals()
    arrivals.add(1, 2, ValueError("the upload"))
    calls = in_order_ahead(arrivals.take, arrivals.start, lambda: 4)
    assert [(await anext(calls))[0] for _ in range(2)] == [1, 2]
    with pytest.raises(ValueError, match="the upload"):
        await anext(calls)


async def test_calls_of_a_caller_that_leaves_are_cancelled_and_no_more_are_started() -> None:
    arrivals = Arrivals()
    arrivals.add(*range(9))
    calls = in_order_ahead(arrivals.take, arrivals.start, lambda: 3)
    await anext(calls)
    await settle()
    await calls.aclose()
    arrivals.add(10)
    await settle()
    assert set(arrivals.calls) == {0, 1, 2}
    assert all(call.cancelled() for call in arrivals.calls.values())
