"""Requests of all kinds that arrive at random, whatever became of earlier ones. Each that fails is sent once more."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serve_app.bench.mixed_requests import Attempt, Kind, MixedRequests

RETRY_S = 0.5
"""Until the second attempt where the service gives no `Retry-After`: the first pause of OpenAI's client."""
LONGEST_RETRY_S = 60.0
"""OpenAI's client ignores a longer `Retry-After`."""

Rates = Mapping[Kind, float]
"""Requests of each kind in a second."""


@dataclass(slots=True)
class TriedRequest:
    """A request that began at `began_s` (monotonic), and its one or two attempts."""

    kind: Kind
    began_s: float
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def answered(self) -> bool:
        """Whether the last attempt got a right answer."""
        return bool(self.attempts) and not self.attempts[-1].wrong

    @property
    def at_once(self) -> bool:
        """Whether the first attempt did."""
        return bool(self.attempts) and not self.attempts[0].wrong

    @property
    def longest_wait_s(self) -> float:
        """The longest time that an attempt took until its answer began, or until it failed."""
        return max(attempt.wait_s for attempt in self.attempts)


class MixedLoad:
    """Requests that arrive at `rates` (Poisson) while `going_on`."""

    def __init__(self, requests: MixedRequests, rates: Rates, seed: int) -> None:
        self._requests = requests
        self._kinds = list(rates)
        self._rates = np.array([rates[kind] for kind in self._kinds])
        self._random = np.random.default_rng(seed)
        self._numbers = itertools.count()
        self.asked: list[TriedRequest] = []

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Sends requests for as long as the context, and waits for their answers."""
        async with asyncio.TaskGroup() as tasks:
            arrivals = tasks.create_task(self._arrive(tasks))
            try:
                yield
            finally:
                arrivals.cancel()

    async def probe(self, kinds: Iterable[Kind]) -> list[TriedRequest]:
        """One request of each kind at once, beside the load, without a second attempt. They are not part of `asked`."""
        return list(await asyncio.gather(*(self._ask(kind, attempts=1) for kind in kinds)))

    async def _arrive(self, tasks: asyncio.TaskGroup) -> None:
        per_second = float(self._rates.sum())
        while True:
            await asyncio.sleep(float(self._random.exponential(1 / per_second)))
            kind = self._kinds[int(self._random.choice(len(self._kinds), p=self._rates / per_second))]
            tasks.create_task(self._count(kind))

    async def _count(self, kind: Kind) -> None:
        self.asked.append(await self._ask(kind))

    async def _ask(self, kind: Kind, attempts: int = 2) -> TriedRequest:
        number, tried = next(self._numbers), TriedRequest(kind, time.monotonic())
        for left in reversed(range(attempts)):
            attempt = await self._requests.ask(kind, number)
            tried.attempts.append(attempt)
            if not attempt.wrong:
                break
            if left:
                await asyncio.sleep(min(attempt.retry_after_s or RETRY_S, LONGEST_RETRY_S))
        return tried


def troubles(asked: Sequence[TriedRequest]) -> str:
    """What went wrong with the attempts of some requests, in words."""
    counts: Counter[tuple[Any, str]] = Counter(
        (tried.kind, attempt.wrong) for tried in asked for attempt in tried.attempts if attempt.wrong
    )
    return ", ".join(f"{count} x {kind}: {wrong}" for (kind, wrong), count in counts.most_common())
