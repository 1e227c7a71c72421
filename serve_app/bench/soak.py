"""`motet bench soak`: an hour of mixed load, and what each process of the service holds meanwhile.

A second simulated model leaks on purpose, and only its process may grow: a run in which this leak is not found shows nothing.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from deployments.errors import fail
from serve_app.bench.chaos import MODELS, RATES, default_placed
from serve_app.bench.frame import Figure, Report, Sheet, at_least, at_most, carry_out
from serve_app.bench.live_bad_clients import holdings, settled
from serve_app.bench.mixed_load import MixedLoad, Rates, troubles
from serve_app.bench.mixed_requests import MixedModels, MixedRequests, spoken_clips
from serve_app.bench.process_growth import Growth, GrowthWatch
from serve_app.bench.running_service import RunningProgram
from serve_app.bench.serve_service import service_of
from serve_app.bench.service_processes import ServiceProcesses
from serve_app.cli.processes import REPLICA

MINUTES, QUICK_MINUTES = 60.0, 0.35
LEAST_MINUTES = 10.0
"""In a shorter run processes still warm up, so their growth has no target."""
SAMPLES = 240
LEAKY = "leaky"
SOAK_RATES: Rates = {**RATES, "events": 0.5, "session": 0.2, "leaver": 0.3}
LEAKED_BYTES = 120e6
"""What the leak amounts to in the whole run: about the size of its process."""
STEPS_PER_S = 4.0
"""Steps of the leaking model in a second, about."""

REQUESTS, FAILED = "requests", "requests that were not answered at once"
MEMORY, FILES, THREADS = "memory", "open files", "threads"
GROWTH = "growth of {} in the second half, worst process"
STREAMS, TASKS = "streams open afterwards", "tasks of the gateway more than before"
LEAK = "growth of the process that leaks on purpose"


def run(quick: bool, minutes: float | None = None) -> Report:
    """Loads a service for `minutes`, an hour without, or for some seconds if `quick`. Raises `MotetError` for no time."""
    if minutes is None:
        minutes = QUICK_MINUTES if quick else MINUTES
    if not 0 < minutes < math.inf:
        raise fail("invalid", f"{minutes:g} minutes are no time.", "Give a positive number.", param="minutes")
    return carry_out("soak", figures(minutes), lambda sheet: _measure(sheet, minutes), quick=quick)


def figures(minutes: float) -> list[Figure]:
    """What is measured."""
    long = minutes >= LEAST_MINUTES
    return [
        Figure(REQUESTS, "requests"),
        Figure(FAILED, "requests", at_most(0)),
        Figure(GROWTH.format(MEMORY), "%", at_most(3) if long else None),
        Figure(GROWTH.format(FILES), "files", at_most(0) if long else None),
        Figure(GROWTH.format(THREADS), "threads", at_most(0) if long else None),
        Figure(STREAMS, "streams", at_most(0)),
        Figure(TASKS, "tasks", at_most(0)),
        Figure(LEAK, "%", at_least(3)),
    ]


def arguments(folder: Path, minutes: float) -> dict[str, Any]:
    """The configuration of the service, with its files in `folder`."""
    leak_bytes = int(LEAKED_BYTES / (minutes * 60 * STEPS_PER_S))
    simulated = {"engine": "simulated", "placements": [{"hardware": {"kind": "cpu", "cpus": 0.1}}]}
    return {
        "models": {
            **{name: default_placed(name) for name in (MODELS.speech, MODELS.transcription, "deepfilternet")},
            MODELS.simulated: {**simulated, "options": {"step_ms": 20}},
            LEAKY: {**simulated, "options": {"step_ms": 20, "leak_bytes": leak_bytes}},
        },
        "jobs": {"folder": str(folder / "jobs")},
        "voices": {"folder": str(folder / "voices")},
    }


def _measure(sheet: Sheet, minutes: float) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="motet-soak-") as name,
        service_of(arguments(Path(name), minutes)) as program,
    ):
        asyncio.run(_soak(sheet, program, minutes * 60))


async def _soak(sheet: Sheet, program: RunningProgram, length_s: float) -> None:
    models = MixedModels(MODELS.speech, MODELS.simulated, MODELS.transcription, "deepfilternet", "speech")
    leaky = MixedModels(LEAKY, LEAKY, MODELS.transcription, "deepfilternet", "speech")
    clips = await asyncio.to_thread(spoken_clips, program, MODELS.speech)
    watch = GrowthWatch(ServiceProcesses(program))
    async with (
        MixedRequests(program, models, clips, f"soak-{time.time_ns()}") as requests,
        MixedRequests(program, leaky, clips, "") as leaking,
    ):
        load, leak = MixedLoad(requests, SOAK_RATES, seed=0), MixedLoad(leaking, {"simulated": 0.4}, seed=1)
        await load.probe(SOAK_RATES)
        before = await holdings(program)
        async with load.going_on(), leak.going_on():
            await _watch(watch, length_s)
        after = await settled(program, before)
    wrong = [tried for tried in load.asked if not tried.at_once]
    sheet.put(REQUESTS, len(load.asked), f"{len(load.asked) / length_s:.1f} a second, of {len(SOAK_RATES)} kinds")
    sheet.put(FAILED, len(wrong), troubles(wrong))
    sheet.put(STREAMS, after.streams)
    sheet.put(TASKS, after.tasks - before.tasks, f"{before.tasks} before, {after.tasks} after")
    _put_growth(sheet, watch.growths(length_s))
    sheet.curves.update(watch.curves())


async def _watch(watch: GrowthWatch, length_s: float) -> None:
    began_s = time.monotonic()
    while (at_s := time.monotonic() - began_s) < length_s:
        await asyncio.to_thread(watch.sample, at_s)
        await asyncio.sleep(length_s / SAMPLES)


def _put_growth(sheet: Sheet, growths: list[Growth]) -> None:
    title = f"ray::{REPLICA}{LEAKY}@"
    others = [growth for growth in growths if not growth.title.startswith(title)]
    memory = max(others, key=lambda growth: growth.memory_percent)
    files = max(others, key=lambda growth: growth.files)
    threads = max(others, key=lambda growth: growth.threads)
    note = f"{memory.title}, from {memory.from_bytes / 1e6:.0f} MB; of {len(others)} processes"
    sheet.put(GROWTH.format(MEMORY), memory.memory_percent, note)
    sheet.put(GROWTH.format(FILES), files.files, files.title if files.files else "")
    sheet.put(GROWTH.format(THREADS), threads.threads, threads.title if threads.threads else "")
    leaks = [growth for growth in growths if growth.title.startswith(title)]
    sheet.put(LEAK, max((growth.memory_percent for growth in leaks), default=float("nan")))


def draw(report: Report, file: Path) -> None:
    """Draws the memory of each process over the time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    picture, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for name, points in sorted(report.curves.items(), key=lambda curve: -curve[1][-1][1]):
        axes.plot(*zip(*points, strict=True), label=name[:60])
    axes.set(xlabel="minutes", ylabel="memory (MB, PSS)", yscale="log")
    axes.legend(fontsize=6, ncols=2)
    picture.savefig(file, dpi=120)
    pyplot.close(picture)
