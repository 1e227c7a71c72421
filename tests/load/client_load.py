"""Clients that send requests in a loop, and retry once after a failure."""

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
from serve_app.bench.running_service import RunningProgram

MODEL = "tone"
CLIENTS = 8
POLL_S = 0.1
PATIENCE_S = 120.0


@dataclass(slots=True)
class TriedRequest:
    """One request: when it was over, what became of it, and of its second try if there was one."""

    at_s: float
    first: StreamResult
    second: StreamResult | None = None

    @property
    def answered(self) -> bool:
        """By the first or the second try."""
        return self.first.complete or (self.second is not None and self.second.complete)


@dataclass(slots=True)
class ClientLoad:
    """Clients that ask again and again, and once more for what failed."""

    service: RunningProgram
    text: str
    model: str = MODEL
    asked: list[TriedRequest] = field(default_factory=list)
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)
    _seeds: Iterator[int] = field(default_factory=itertools.count)

    async def client(self) -> None:
        """Until it is told to stop."""
        while not self._stopped.is_set():
            first = await self.ask()
            second = None if first.complete else await self.ask()
            self.asked.append(TriedRequest(time.monotonic(), first, second))

    async def ask(self) -> StreamResult:
        """One try."""
        return await listen(self.service, StreamRequest(self.model, self.text, next(self._seeds)))

    @asynccontextmanager
    async def going_on(self, clients: int = CLIENTS) -> AsyncIterator[None]:
        """While the clients ask; waits for their last answers."""
        self._stopped.clear()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(self.client())
            try:
                yield
            finally:
                self._stopped.set()

    def answered(self, since_s: float, until_s: float) -> tuple[float, str]:
        """The share of requests that were over in that time and were answered, in percent, and of how many."""
        over = [asked for asked in self.asked if since_s <= asked.at_s < until_s]
        if not over:
            raise fail("unavailable", "No request came to an end in that time.")
        good, at_once = sum(asked.answered for asked in over), sum(asked.first.complete for asked in over)
        return 100 * good / len(over), f"{len(over)} requests, {at_once} of them at once"

    def placements(self, since_s: float = -math.inf) -> Counter[str]:
        """Who answered, by class."""
        return Counter(
            asked.first.placement.partition("@")[2]
            for asked in self.asked
            if asked.first.complete and asked.at_s >= since_s
        )


async def until(found: Callable[[], bool], what: str) -> float:
    """Waits, and tells how many seconds. Raises `MotetError` when it takes too long."""
    began = time.monotonic()
    while not found():
        if (waited := time.monotonic() - began) > PATIENCE_S:
            raise fail("unavailable", f"Waited {waited:.0f} s for {what}.")
        await asyncio.sleep(POLL_S)
    return time.monotonic() - began
