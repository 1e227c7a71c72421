"""An engine's call that advances some items by one step, and what is looked after once it has been made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Advance = Callable[[Sequence[Item]], list[Result | Exception]]


def followed_by(advance: Advance[Item, Result], look: Callable[[], None]) -> Advance[Item, Result]:
    """The call, after which `look` is called on the same thread, also when it raised."""

    def advance_and_look(items: Sequence[Item]) -> list[Result | Exception]:
        try:
            return advance(items)
        finally:
            look()

    return advance_and_look
