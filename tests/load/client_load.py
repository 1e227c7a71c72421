"""Clients that send requests in a loop, and retry once after a failure, when the service says."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from deployments.errors import fail
from serve_app.bench.load import StreamRequest, StreamResult, listen
from serve_app.bench.mixed_load import LONGEST_RETRY_S, RETRY_S
from serve_app.bench.running_service import RunningProgram

MODEL = "tone"
CLIENTS = 8
POLL_S = 0.1
PATIENCE_S = 120.0


@dataclass(slots=True)
class TriedRequest:
    """A request: when it ended, its result, and the result of its retry if there was one."""

    at_s: float
    first: StreamResult
    second: StreamResult | None = None

    @property
    def answered(self) -> bool:
        """Whether the first or the second try is complete."""
        return self.first.complete or (self.second is not None and self.second.complete)


@dataclass(slots=True)
class ClientLoad:
    """Clients that send requests in a loop, and retry each failed one once."""

    service: RunningProgram
    text: str
    model: str = MODEL
    asked: list[TriedRequest] = field(default_factory=list)
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)
    _seeds: Iterator[int] = field(default_factory=itertools.count)

    async def client(self) -> None:
        """Sends requests until the load stops."""
        while not self._stopped.is_set():
            first = await self.ask()
            second = None if first.complete else await self._ask_again(first)
            self.asked.append(TriedRequest(time.monotonic(), first, second))

    async def ask(self) -> StreamResult:
        """Sends one request."""
        return await listen(self.service, StreamRequest(self.model, self.text, next(self._seeds)))

    async def _ask_again(self, refused: StreamResult) -> StreamResult:
        await asyncio.sleep(min(refused.retry_after_s or RETRY_S, LONGEST_RETRY_S))
        return await self.ask()

    @asynccontextmanager
    async def going_on(self, clients: int = CLIENTS) -> AsyncIterator[None]:
        """Runs `clients` clients for as long as the context, and waits for their last answers."""
        self._stopped.clear()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(self.client())
            try:
                yield
            finally:
                self._stopped.set()

    def answered(self, since_s: float, until_s: float) -> tuple[float, str]:
        """The percentage of the requests ended between `since_s` and `until_s` that were answered, and a note with their number.

        Raises `MotetError` if no request ended in that time.
        """
        over = [asked for asked in self.asked if since_s <= asked.at_s < until_s]
        if not over:
            raise fail("unavailable", "No request ended in that time.")
        good, at_once = sum(asked.answered for asked in over), sum(asked.first.complete for asked in over)
        return 100 * good / len(over), f"{len(over)} requests, {at_once} of them at once"

    def placements(self, since_s: float = -math.inf) -> Counter[str]:
        """The number of answers of each hardware class since `since_s`."""
        return Counter(
            asked.first.placement.partition("@")[2]
            for asked in self.asked
            if asked.first.complete and asked.at_s >= since_s
        )


async def until(found: Callable[[], bool], what: str) -> float:
    """Waits until `found()` is true; returns the seconds. Raises `MotetError` after `PATIENCE_S`."""
    began = time.monotonic()
    while not found():
        if (waited := time.monotonic() - began) > PATIENCE_S:
            raise fail("unavailable", f"Waited {waited:.0f} s for {what}.")
        await asyncio.sleep(POLL_S)
    return time.monotonic() - began
