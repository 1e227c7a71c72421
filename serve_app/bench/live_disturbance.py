"""Two good sessions beside many bad connections: how late their text is, and what the service holds afterwards."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from serve_app.bench.frame import Figure, Sheet, at_most
from serve_app.bench.live_bad_clients import BadLoad, holdings, misbehave, settled
from serve_app.bench.live_points import FINAL_S, PARTIAL_S, Point, Stage
from serve_app.bench.live_recordings import Pcm

GOOD = 2
PARTIAL = "beside {} bad connections, text behind the speech, p95"
FINAL = "beside {} bad connections, final text after the turn, p95"
LATER = "the same, final text later than without them, p95"
STREAMS, TASKS, MEMORY = "streams open afterwards", "tasks of the gateway more than before", "memory of the gateway"
MORE_MEMORY_MB = 20.0


def figures(connections: int) -> list[Figure]:
    """What is measured."""
    return [
        Figure(PARTIAL.format(connections), "s", at_most(PARTIAL_S)),
        Figure(FINAL.format(connections), "ms", at_most(FINAL_S * 1000)),
        Figure(LATER, "ms", at_most(200)),
        Figure(STREAMS, "streams", at_most(0)),
        Figure(TASKS, "tasks", at_most(0)),
        Figure(MEMORY, "MB more", at_most(MORE_MEMORY_MB)),
    ]


def measure_disturbance(
    sheet: Sheet, stage: Stage, model: str, samples: Pcm, connections: int, seconds: float, calm: Point | None
) -> None:
    """Fills the figures in. The bad connections come within `seconds`; some speak `samples` (mono, 16 kHz). `calm` are the
    good sessions without them, if that was measured."""
    program = stage.service.program
    with sheet.measuring(f"{connections} bad connections"):
        calm = calm or stage.measure(model, model, GOOD)
        before = asyncio.run(holdings(program))
        bad = BadLoad(program, connections, seconds, model, samples)
        with ThreadPoolExecutor(1) as pool:
            misbehaving = pool.submit(stage.clients.run, misbehave, bad)
            disturbed = stage.measure(model, model, GOOD)
            ended = misbehaving.result()
        after = asyncio.run(settled(program, before))
        note = f"{GOOD} good sessions; {calm.partials[1]:.2f} s without; {disturbed}; {ended} closed by the service"
        sheet.put(PARTIAL.format(connections), disturbed.partials[1], note)
        finals = disturbed.finals[1] * 1000, calm.finals[1] * 1000
        sheet.put(FINAL.format(connections), finals[0], f"{disturbed.turns} turns, {disturbed.missing} without")
        sheet.put(LATER, finals[0] - finals[1], f"{finals[1]:.0f} ms without")
        sheet.put(STREAMS, after.streams)
        sheet.put(TASKS, after.tasks - before.tasks, f"{before.tasks} before, {after.tasks} after")
        sheet.put(
            MEMORY, (after.memory_bytes - before.memory_bytes) / 1e6, f"{before.memory_bytes / 1e6:.0f} MB before"
        )
