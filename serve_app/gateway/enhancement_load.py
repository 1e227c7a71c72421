"""The live enhancements of a gateway replica: how many there are, what they cost, and whether another one is admitted."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from deployments.errors import fail
from serve_app.gateway.routing.open_limits import SessionLimit
from serve_app.gateway.settings import EnhancementSettings

SMOOTHING = 0.1
"""Weight of the newest cost in its running mean."""
FORGOTTEN_AFTER_S = 60.0
"""How long a cost counts: the machine may have become faster since."""
MOST_BUSY = 0.8
"""The share of time in which a model may enhance, so that calls do not queue."""


class EnhancementLoad:
    """The streams of a gateway by model, and what a second of sound costs, in seconds of a replica. `clock` is monotonic, in
    seconds. Each of several `gateways` has an equal part of the replicas."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, gateways: int = 1) -> None:
        self._gateways = gateways
        self._open = Counter[str]()
        self._cost: dict[str, float] = {}
        self._noted_s: dict[str, float] = {}
        self._clock = clock

    @contextmanager
    def admit(self, model: str, replicas: int) -> Iterator[None]:
        """Counts a stream. Raises `MotetError` (overloaded) if all streams together would be too much for the replicas. One
        is always admitted: it measures the cost anew."""
        streams = self._open[model]
        if streams and (streams + 1) * self._known_cost(model, 0.0) > MOST_BUSY * replicas / self._gateways:
            cause = f"The model {model!r} enhances {streams} streams, and cannot do another in time."
            raise fail("overloaded", cause, "Try again when a stream has ended.", code="model_busy")
        self._open[model] += 1
        try:
            yield
        finally:
            self._open[model] -= 1

    def note(self, model: str, share_s: float, seconds: float) -> None:
        """A stream's share of a step with `seconds` of its sound was `share_s`."""
        cost = share_s / seconds
        self._cost[model] = self._known_cost(model, cost) * (1 - SMOOTHING) + cost * SMOOTHING
        self._noted_s[model] = self._clock()

    def _known_cost(self, model: str, otherwise: float) -> float:
        known = self._clock() - self._noted_s.get(model, -math.inf) <= FORGOTTEN_AFTER_S
        return self._cost[model] if known else otherwise


@dataclass(frozen=True, slots=True)
class LiveEnhancements:
    """What the live enhancements of a gateway replica share."""

    settings: EnhancementSettings
    limit: SessionLimit
    load: EnhancementLoad
