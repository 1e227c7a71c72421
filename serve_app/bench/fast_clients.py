"""The first byte of clients that read as fast as they can: eight at once, compared with one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from serve_app.bench.frame import Sheet, interleaved
from serve_app.bench.load import StreamRequest, StreamResult, closed_loop, complete, summary
from serve_app.bench.running_service import RunningProgram

CLIENTS = 8


def measure_fast(
    sheet: Sheet, name: str, service: RunningProgram, next_ask: Callable[[], StreamRequest], rounds: int, seconds: float
) -> None:
    """Measures `name` with one client and with eight, in turn, each for `seconds` a round. All clients of a round start at
    once; the quantiles are those of all rounds."""
    heard: dict[int, list[StreamResult]] = {1: [], CLIENTS: []}

    def clients(count: int) -> float:
        heard[count] += (results := asyncio.run(closed_loop(service, count, seconds, next_ask)))
        return float(len(complete(results)))

    interleaved({str(count): partial(clients, count) for count in heard}, rounds)
    one, eight = (summary(results, 0.0) for results in heard.values())
    note = f"p50/p95 {one.first_ms[0]:.0f}/{one.first_ms[1]:.0f} ms for one, {eight.first_ms[0]:.0f}/{eight.first_ms[1]:.0f}"
    note += (
        f" ms for {CLIENTS}, of {one.asked} and {eight.asked} requests; texts of 400 to 700 characters, no two alike"
    )
    sheet.put(name, eight.first_ms[1] / one.first_ms[1], note)
