"""One step of an engine for many items, in which a bad item does not fail the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def advance_or_halve(
    advance: Callable[[Sequence[Item]], list[Result | Exception]], items: Sequence[Item]
) -> list[Result | Exception]:
    """Calls `advance` with all items. If the call raises, calls it once more with each half, so that only the half with the
    bad item fails.

    Returns a result or an exception for each item, in order.
    """
    try:
        return _checked(advance(items), items)
    except Exception as error:
        if len(items) == 1:
            return [error]
        middle = len(items) // 2
        return [*_or_error(advance, items[:middle]), *_or_error(advance, items[middle:])]


def _or_error(
    advance: Callable[[Sequence[Item]], list[Result | Exception]], items: Sequence[Item]
) -> list[Result | Exception]:
    try:
        return _checked(advance(items), items)
    except Exception as error:
        return [error] * len(items)


def _checked(results: list[Result | Exception], items: Sequence[Item]) -> list[Result | Exception]:
    if len(results) != len(items):
        raise RuntimeError(f"the engine gave {len(results)} results for {len(items)} items")
    return results
