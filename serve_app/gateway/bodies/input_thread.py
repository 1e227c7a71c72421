"""Work on what clients send that takes longer than a millisecond: on threads of its own, away from the event loop.

There are few of them: they share Python's lock with the event loop, and each that works makes it wait for its turn. Sound is
encoded on other threads, so that large inputs of one client hold up no sound of another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

THREADS = 2
_POOL = ThreadPoolExecutor(THREADS, thread_name_prefix="input")


async def in_input_thread(
    large: bool, work: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Result:
    """Does the work: here when it is not `large`, else on an input thread. Nothing that it uses is freed before it ends,
    also when the caller is cancelled, so each piece of work is to be short."""
    if not large:
        return work(*arguments, **named)
    done = asyncio.get_running_loop().run_in_executor(_POOL, lambda: work(*arguments, **named))
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        raise
