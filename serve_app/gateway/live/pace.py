"""How often live sessions are heard, and how many there may be: from what a hearing has cost so far."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deployments.errors import fail
from serve_app.gateway.live.settings import RealtimeSettings

SMOOTHING = 0.1
"""Weight of the newest cost in its running mean."""
FORGOTTEN_AFTER_S = 60.0
"""How long a cost counts: the machine may have become slower since."""
MOST_BUSY = 0.8
"""The share of time in which a model hears, so that a last hearing does not wait behind a queue of others."""

ALONE = 0.5
"""What a hearing is expected to cost in a larger step, as a share of its cost alone, until one was measured. Whisper base,
on two cores, took 0.49 s for one window of 5 s, 0.25 s for each of two, and 0.23 s for each of eight: one window uses one
core."""


class LivePace:
    """The live sessions of a gateway by model, and what one hearing costs: the time of a step, divided by the streams that
    share it. Larger steps cost less for each stream, so the least cost of all sizes counts: sessions that come make steps
    larger. Each of several `gateways` takes the others to have as many sessions and turns as itself."""

    def __init__(
        self, settings: RealtimeSettings, clock: Callable[[], float] = time.monotonic, gateways: int = 1
    ) -> None:
        self._gateways = gateways
        self._every_s = settings.hear_every_ms / 1000
        self._at_least_every_s = settings.hear_at_least_every_ms / 1000
        self._sessions: Counter[str] = Counter()
        self._turns: Counter[str] = Counter()
        self._costs: defaultdict[str, dict[int, float]] = defaultdict(dict)
        self._noted_s: defaultdict[str, dict[int, float]] = defaultdict(dict)
        self._clock = clock

    @contextmanager
    def admit(self, model: str) -> Iterator[None]:
        """Counts a session. Raises `MotetError` (overloaded) if all sessions of the model, when they speak at once, would be
        heard less often than `hear_at_least_every_ms`. One session is always admitted: its steps are measured anew, so that a
        slow moment does not keep everyone out for good."""
        sessions = self._sessions[model]
        if sessions and (sessions + 1) * self._gateways * self._cost_s(model) > self._at_least_every_s:
            raise fail(
                "overloaded",
                f"The model {model!r} hears {sessions} live sessions, and cannot hear another in time.",
                "Try again when a session has ended.",
                code="model_busy",
            )
        self._sessions[model] += 1
        try:
            yield
        finally:
            self._sessions[model] -= 1

    @contextmanager
    def turn(self, model: str) -> Iterator[None]:
        """Counts somebody who is speaking."""
        self._turns[model] += 1
        try:
            yield
        finally:
            self._turns[model] -= 1

    def note(self, model: str, step_s: float, together: int, replicas: int) -> None:
        """A step of `together` streams took `step_s` on one of `replicas`, of which each hears its share of the sessions."""
        cost_s = step_s / together / replicas
        before_s = self._fresh_costs(model).get(together, cost_s)
        self._costs[model][together] = before_s * (1 - SMOOTHING) + cost_s * SMOOTHING
        self._noted_s[model][together] = self._clock()

    def every_s(self, model: str) -> float:
        """Seconds of new sound after which a turn is heard again."""
        needed_s = self._turns[model] * self._gateways * self._cost_s(model) / MOST_BUSY
        return min(max(self._every_s, needed_s), self._at_least_every_s)

    def _cost_s(self, model: str) -> float:
        costs = self._fresh_costs(model)
        return ALONE * costs[1] if costs.keys() == {1} else min(costs.values(), default=0.0)

    def _fresh_costs(self, model: str) -> dict[int, float]:
        """The costs by size, without those of sizes that did not occur for `FORGOTTEN_AFTER_S`."""
        costs, noted_s, now_s = self._costs[model], self._noted_s[model], self._clock()
        for size in [size for size, at_s in noted_s.items() if now_s - at_s > FORGOTTEN_AFTER_S]:
            del costs[size], noted_s[size]
        return costs
