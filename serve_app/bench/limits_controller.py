"""What one deployment costs Ray Serve's controller, by its replicas and gateways.

The controller's own code runs in this process, with lists and reports as long as those of 5, 50 and 500 replicas. CPU time
counts, which depends little on other work of the machine.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cluster.autoscaling import autoscaling_config
from cluster.demand import AutoscalingSettings
from cluster.ray_private import ControllerWork
from serve_app.bench.frame import Figure, Sheet

REPLICAS = (5, 50, 500)
LISTENERS = 100
"""Gateways, and others that hold a handle of the deployment."""
REPORT_EVERY_S = 10.0
"""Ray Serve's interval of reports of handles and replicas, for each deployment."""
DECISIONS_PER_SECOND = 10
"""Ray Serve's controller looks at each deployment every 0.1 s."""
REQUEST_SECONDS_OF_AUDIO = 10.0

SIZE = "report of a gateway, {} replicas"
TAKEN = "the controller takes a report, {} replicas"
DECISION = "the controller decides, {} replicas"
LIST = "list of replicas, {} of them"
SPREAD = "the controller sends a changed list to {} listeners, {} replicas"
SHARE = "controller's core, {} gateways, {} replicas"
GROWTH = "growth from 50 to 500 replicas: {}"
GROWING = ("report's size", "taking it", "deciding", "sending a list")
SCALES = ((1, 5), (10, 50), (100, 500))
"""Gateways and replicas of a service, of one ten times as large, and of one a hundred times as large."""


def figures() -> Iterator[Figure]:
    """What is measured."""
    for count in REPLICAS:
        yield Figure(SIZE.format(count), "bytes")
        yield Figure(TAKEN.format(count), "ms CPU")
        yield Figure(DECISION.format(count), "ms CPU")
        yield Figure(LIST.format(count), "bytes")
        yield Figure(SPREAD.format(LISTENERS, count), "ms CPU")
    yield from (Figure(GROWTH.format(name), "times") for name in GROWING)
    yield from (Figure(SHARE.format(*scale), "%") for scale in SCALES)


@dataclass(frozen=True, slots=True)
class ControllerCost:
    """Of one deployment: bytes, and milliseconds of CPU."""

    report_bytes: float
    take_ms: float
    decide_ms: float
    list_bytes: float
    spread_ms: float

    def percent_of_core(self, gateways: int) -> float:
        """The share of a core that reports of some gateways and decisions take, without changes."""
        ms_per_second = gateways * self.take_ms / REPORT_EVERY_S + DECISIONS_PER_SECOND * self.decide_ms
        return ms_per_second / 10


def measure_controller(sheet: Sheet, rounds: int) -> None:
    """Fills in `figures`."""
    with sheet.measuring("the controller's work for 5, 50 and 500 replicas"):
        costs = {count: cost_of(count, rounds) for count in REPLICAS}
        for count, cost in costs.items():
            sheet.put(SIZE.format(count), cost.report_bytes, "compressed, 6 values for each replica")
            sheet.put(TAKEN.format(count), cost.take_ms, f"every {REPORT_EVERY_S:g} s from each gateway")
            sheet.put(DECISION.format(count), cost.decide_ms, f"{DECISIONS_PER_SECOND} times a second")
            sheet.put(LIST.format(count), cost.list_bytes)
            sheet.put(SPREAD.format(LISTENERS, count), cost.spread_ms, "whenever a replica starts or ends")
        few, many = costs[50], costs[500]
        ratios = (
            many.report_bytes / few.report_bytes,
            many.take_ms / few.take_ms,
            many.decide_ms / few.decide_ms,
            many.spread_ms / few.spread_ms,
        )
        for name, ratio in zip(GROWING, ratios, strict=True):
            sheet.put(GROWTH.format(name), ratio, f"10 is in proportion; exponent {math.log10(ratio):.2f}")
        for gateways, replicas in SCALES:
            sheet.put(SHARE.format(gateways, replicas), costs[replicas].percent_of_core(gateways), "of one deployment")


def cost_of(replicas: int, rounds: int) -> ControllerCost:
    """Measures one deployment; the median of the rounds."""
    config = autoscaling_config("model", AutoscalingSettings(max_replicas=1000), REQUEST_SECONDS_OF_AUDIO)
    work = ControllerWork(replicas, config)
    work.report_of_replicas(time.time())
    report = work.report_of_gateway(0, time.time())
    work.take(report)
    work.decide()  # the first one builds what later ones find
    reports = iter([work.report_of_gateway(number, time.time() + number) for number in range(rounds)])
    list_bytes = asyncio.run(work.spread_change(1))
    return ControllerCost(
        report_bytes=len(report),
        take_ms=_median_ms(lambda: work.take(next(reports)), rounds),
        decide_ms=_median_ms(work.decide, rounds),
        list_bytes=list_bytes,
        spread_ms=_median_ms(lambda: asyncio.run(work.spread_change(LISTENERS)), max(3, rounds // 5)),
    )


def _median_ms(call: Callable[[], object], rounds: int) -> float:
    took = []
    for _ in range(rounds):
        began = time.process_time()
        call()
        took.append((time.process_time() - began) * 1000)
    return sorted(took)[len(took) // 2]
