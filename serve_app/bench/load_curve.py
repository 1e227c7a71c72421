"""How the service behaves from a tenth to three times of what it can do, and beside a key that asks for too much.

The engine is simulated, so that the capacity does not depend on this machine: a step takes 150 ms for up to eight streams.
All requests come over HTTP at random times, whatever became of earlier ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from serve_app.bench.frame import Figure, Report, Sheet, at_least, at_most, carry_out
from serve_app.bench.load import (
    REFUSED,
    LoadSummary,
    StreamRequest,
    StreamResult,
    arrival_times,
    arrivals,
    closed_loop,
    quantile,
)
from serve_app.bench.running_service import RunningProgram
from serve_app.bench.serve_service import service_of, summed

MODEL = "simulated"
STEP_MS, CHUNK_MS, CHARACTER_MS = 150.0, 480.0, 60.0
CHARACTERS = 30
KEYS = tuple(f"key-{number}" for number in range(10))
GREEDY, OTHERS = KEYS[0], KEYS[1:]
BATCH = 8
FULL_BATCHES = BATCH / (math.ceil(CHARACTERS * CHARACTER_MS / CHUNK_MS) * STEP_MS / 1000)
"""Streams per second that the engine makes if every batch is full and follows the one before at once."""
LEAST_CAPACITY = 0.8
"""The share of that which the service must reach. All loads are shares of the measured capacity, so that a service that
lost half of it would otherwise meet every other target. A quick run on two busy cores reached 0.89."""
CLIENTS = 24
"""Clients that together keep the engine busy."""
SHARES = (0.1, 0.7, 1.0, 3.0)
TAIL = (0.5, 0.95, 0.99, 0.999)
USUAL, GREEDY_SHARE = 0.07, 3.0
"""What each key asks for, as a share of the capacity, and what the greedy one asks for."""

CAPACITY = "capacity, 24 clients without a pause"
LATE = "requests sent late by the load generator, p99"
REFUSED_70 = "refused at 70 % of the capacity"
FIRST_3X = "first sound p95 of accepted, 3x over 10 % of the capacity"
REFUSALS_3X = "time to a refusal at 3x, p95"
GOODPUT_3X = "goodput at 3x over the best goodput"
FAILED = "neither answered nor refused, of all"
FAIR_FIRST = "first sound p95 of nine keys, beside a greedy one over beside a usual one"
FAIR_GOOD = "streams of the nine keys without a gap, beside a greedy one over beside a usual one"


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """How much is measured, in seconds. The first `settle_s` of an overload are not counted."""

    capacity_s: float
    load_s: float
    settle_s: float


QUICK = LoadPlan(3.0, 4.0, 2.0)
FULL = LoadPlan(10.0, 60.0, 10.0)


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """What became of the requests of one load that were due in `seconds`."""

    results: Sequence[StreamResult]
    seconds: float

    @property
    def firsts_ms(self) -> list[float]:
        """The waits for a first sound, from when a request was due."""
        return [each.first_s * 1000 for each in self.results if each.first_s is not None]

    @property
    def refusals_ms(self) -> list[float]:
        """The waits for a refusal."""
        found = (each for each in self.results if each.status == REFUSED)
        return [each.answered_s * 1000 for each in found if each.answered_s is not None]

    @property
    def goodput(self) -> float:
        """Streams without a gap, per second."""
        return sum(each.good for each in self.results) / self.seconds

    @property
    def refused_percent(self) -> float:
        """The share of requests that were refused."""
        return 100 * len(self.refusals_ms) / len(self.results)

    @property
    def failed(self) -> int:
        """Requests that were neither answered whole nor refused."""
        return sum(not each.complete and each.status != REFUSED for each in self.results)

    def of(self, keys: Sequence[str]) -> LoadPoint:
        """The part of some keys."""
        return LoadPoint([each for each in self.results if each.ask.key in keys], self.seconds)

    def __str__(self) -> str:
        tail = "/".join(f"{quantile(self.firsts_ms, share):.0f}" for share in TAIL)
        return (
            f"{len(self.results)} requests in {self.seconds:.0f} s, {self.refused_percent:.1f} % refused, {self.failed} "
            f"failed, goodput {self.goodput:.1f}/s, first sound p50/p95/p99/p99.9 {tail} ms"
        )


def curve_figure(share: float, what: str) -> str:
    """The name of a figure of the curve."""
    return f"at {share:g}x, {what}"


def _first_ms(point: LoadPoint, share: float) -> float:
    return quantile(point.firsts_ms, share)


CURVE: Mapping[str, tuple[str, Callable[[LoadPoint], float]]] = {
    "refused": ("%", lambda point: point.refused_percent),
    "goodput": ("streams/s", lambda point: point.goodput),
    **{f"first sound p{100 * share:g}": ("ms", partial(_first_ms, share=share)) for share in TAIL},
}
FIGURES = (
    Figure(CAPACITY, "streams/s", at_least(LEAST_CAPACITY * FULL_BATCHES)),
    Figure(REFUSED_70, "%", at_most(1)),
    Figure(FIRST_3X, "x", at_most(1.5)),
    Figure(REFUSALS_3X, "ms", at_most(50)),
    Figure(GOODPUT_3X, "x", at_least(0.9)),
    Figure(FAIR_FIRST, "x", at_most(1.2)),
    Figure(FAIR_GOOD, "x", at_least(0.95)),
    Figure(FAILED, "requests", at_most(0)),
    Figure(LATE, "ms"),
    *(Figure(curve_figure(share, what), unit) for share in SHARES for what, (unit, _) in CURVE.items()),
)


def run(quick: bool) -> Report:
    """Measures everything; `quick` takes shorter loads."""
    plan = QUICK if quick else FULL

    def measure(sheet: Sheet) -> None:
        with sheet.measuring("starting the service"), service_of(config()) as service:
            bench = LoadBench(sheet, plan, service)
            with sheet.measuring("the capacity"):
                bench.measure_capacity()
            with sheet.measuring("loads from a tenth to three times of it"):
                bench.measure_curve()
            with sheet.measuring("a greedy key beside nine others"):
                bench.measure_fairness()

    return carry_out("load", FIGURES, measure, quick=quick)


def config() -> dict[str, Any]:
    """One simulated model, and ten API keys."""
    places = {"max_ongoing_requests": 256, "max_queued_requests": 256}
    model = {
        "engine": "simulated",
        "options": {"step_ms": STEP_MS, "chunk_ms": CHUNK_MS, "character_ms": CHARACTER_MS},
        "steps": {"max_batch_size": BATCH},
        "placements": [{"hardware": {"kind": "cpu", "cpus": 0.1}, **places}],
    }
    keys = {name: {"sha256": [hashlib.sha256(name.encode()).hexdigest()]} for name in KEYS}
    return {"models": {MODEL: model}, "security": {"keys": keys}}


class LoadBench:
    """The measurements, which share the capacity and what has been asked so far."""

    def __init__(self, sheet: Sheet, plan: LoadPlan, service: RunningProgram) -> None:
        self._sheet = sheet
        self._plan = plan
        self._service = service
        self._numbers = itertools.count()
        self._capacity = 0.0
        self._late_ms: list[float] = []
        self._failed = 0

    def measure_capacity(self) -> None:
        """How many streams a second the service makes when it always has enough to do."""
        load = closed_loop(self._service, CLIENTS, self._plan.capacity_s, lambda: self._ask(KEYS[0]))
        found: LoadSummary = summed(load)
        self._capacity = found.completed / found.seconds
        self._sheet.put(CAPACITY, self._capacity, f"full batches would make {FULL_BATCHES:.1f}; {found}")

    def measure_curve(self) -> None:
        """All loads of one key."""
        points = {share: self._load({KEYS[0]: share}) for share in SHARES}
        for share, point in points.items():
            for what, (_, value) in CURVE.items():
                self._sheet.put(curve_figure(share, what), value(point))
        low, usual, over = points[0.1], points[0.7], points[3.0]
        self._sheet.put(REFUSED_70, usual.refused_percent, str(usual))
        first_ms = quantile(over.firsts_ms, 0.95), quantile(low.firsts_ms, 0.95)
        self._sheet.put(FIRST_3X, first_ms[0] / first_ms[1], f"{first_ms[0]:.0f} ms over {first_ms[1]:.0f} ms; {over}")
        self._sheet.put(REFUSALS_3X, quantile(over.refusals_ms, 0.95), f"{len(over.refusals_ms)} refusals")
        best = max(point.goodput for point in points.values())
        self._sheet.put(GOODPUT_3X, over.goodput / best, f"{over.goodput:.1f} over {best:.1f} streams/s")

    def measure_fairness(self) -> None:
        """Nine keys beside a tenth, which asks for as much as each of them, or for far too much."""
        nine = dict.fromkeys(OTHERS, USUAL)
        alone = self._load({**nine, GREEDY: USUAL}).of(OTHERS)
        beside = self._load({**nine, GREEDY: GREEDY_SHARE}).of(OTHERS)
        first_ms = quantile(beside.firsts_ms, 0.95), quantile(alone.firsts_ms, 0.95)
        self._sheet.put(
            FAIR_FIRST, first_ms[0] / first_ms[1], f"{first_ms[0]:.0f} ms over {first_ms[1]:.0f} ms; {beside}"
        )
        good = [sum(each.good for each in point.results) / len(point.results) for point in (beside, alone)]
        self._sheet.put(FAIR_GOOD, good[0] / good[1], f"{100 * good[0]:.0f} % over {100 * good[1]:.0f} %")
        self._sheet.put(FAILED, self._failed)
        self._sheet.put(LATE, quantile(self._late_ms, 0.99), "waits count from when a request was due")

    def _load(self, shares: Mapping[str, float]) -> LoadPoint:
        """The requests of some keys, each of which asks for a share of the capacity."""
        settle_s = self._plan.settle_s if sum(shares.values()) > 1 else 0.0
        until_s = settle_s + self._plan.load_s
        asks = sorted(self._arriving(shares, until_s), key=lambda arrival: arrival[0])
        results = asyncio.run(arrivals(self._service, asks))
        self._late_ms += [each.late_s * 1000 for each in results]
        began_s = results[0].due_s - asks[0][0]
        counted = [each for each in results if each.due_s - began_s >= settle_s]
        point = LoadPoint(counted, self._plan.load_s)
        self._failed += point.failed
        return point

    def _arriving(self, shares: Mapping[str, float], until_s: float) -> Iterator[tuple[float, StreamRequest]]:
        for number, (key, share) in enumerate(shares.items()):
            per_second = self._capacity * share
            times = arrival_times(int(2 * per_second * until_s) + 20, per_second, seed=number)
            yield from ((at_s, self._ask(key)) for at_s in times if at_s < until_s)

    def _ask(self, key: str) -> StreamRequest:
        number = next(self._numbers)
        return StreamRequest(MODEL, f"Tone {number} ".ljust(CHARACTERS - 1, "a") + ".", number, key=key)
