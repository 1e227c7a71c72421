"""Threads for work on request bodies that takes longer than a millisecond, so that the event loop stays free.

There are only a few, because each working thread competes with the event loop for Python's global lock. Audio is encoded on
other threads, so that large inputs of one client do not delay the audio of another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

THREADS = 2
_POOL = ThreadPoolExecutor(THREADS, thread_name_prefix="input")


async def in_input_thread(
    large: bool, work: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Result:
    """Calls `work`: on an input thread if it is `large`, else directly. A cancelled caller waits for the end of the call,
    because the call may use what the caller frees; so each call must be short."""
    if not large:
        return work(*arguments, **named)
    context = copy_context()  # so that `work` knows the request
    done = asyncio.get_running_loop().run_in_executor(_POOL, lambda: context.run(work, *arguments, **named))
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        raise
