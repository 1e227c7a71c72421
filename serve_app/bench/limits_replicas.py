"""What many replicas cost Ray Serve: stub replicas as real processes, as many as the memory of one machine has room for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import psutil
import ray
from ray import serve

from serve_app.bench.frame import Figure, Sheet
from serve_app.cli.processes import command_line, descendants

APPLICATION = "limits"
CALLS = 50
REST = "controller's core at rest, {} stub replicas"
CALL = "a call of a stub replica, {} of them, p50"
START = "start of a stub replica, {} of them"
MEMORY = "memory of a stub replica"


class Stub:
    """A replica that does nothing."""

    async def answer(self) -> int:
        """Answers at once."""
        return 0


def figures(counts: Sequence[int]) -> Iterator[Figure]:
    """What is measured with these numbers of replicas."""
    for count in counts:
        yield Figure(REST.format(count), "%")
        yield Figure(CALL.format(count), "ms")
        yield Figure(START.format(count), "s")
    yield Figure(MEMORY, "MB")


def measure_replicas(sheet: Sheet, counts: Sequence[int], rest_s: float) -> None:
    """Fills in `figures`, on a Ray of its own."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="Disabled")
        before = 0
        for count in counts:
            with sheet.measuring(f"{count} stub replicas"):
                _measure(sheet, count, count - before, rest_s)
            before = count
        with sheet.measuring("the memory of a stub replica"):
            sizes = [each.memory_info().rss / 1e6 for each in _processes("ray::ServeReplica")]
            sheet.put(MEMORY, median(sizes), f"resident, of {len(sizes)}")
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


def _measure(sheet: Sheet, count: int, new: int, rest_s: float) -> None:
    began = time.monotonic()
    deployment = serve.deployment(num_replicas=count, ray_actor_options={"num_cpus": 0})(Stub)
    handle: Any = serve.run(deployment.bind(), name=APPLICATION, route_prefix=None)
    sheet.put(START.format(count), (time.monotonic() - began) / new, f"{new} were started together")
    took = [_call_ms(handle) for _ in range(CALLS)]
    sheet.put(CALL.format(count), median(took), f"from a driver, {CALLS} one after the other")
    (controller,) = _processes("ray::ServeController")
    before = controller.cpu_times()
    time.sleep(rest_s)
    after = controller.cpu_times()
    used = after.user + after.system - before.user - before.system
    sheet.put(REST.format(count), 100 * used / rest_s, f"over {rest_s:g} s")


def _call_ms(handle: Any) -> float:
    began = time.perf_counter()
    handle.answer.remote().result()
    return (time.perf_counter() - began) * 1000


def _processes(title: str) -> list[psutil.Process]:
    return [each for each in descendants(os.getpid()) if " ".join(command_line(each)).startswith(title)]
