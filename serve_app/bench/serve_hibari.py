"""How the default voice serves many listeners: fast clients, players, capacity, overload, and the presets of pacing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from serve_app.bench.fast_clients import measure_fast
from serve_app.bench.frame import Figure, Sheet, at_least, at_most, interleaved
from serve_app.bench.load import (
    LoadSummary,
    StreamResult,
    closed_loop,
    complete,
    listen,
    open_loop,
    quantile,
)
from serve_app.bench.running_service import RunningProgram
from serve_app.bench.serve_service import MAX_WAIT_S, RequestSource, ServePlan, summed
from serve_app.gateway.settings import PRESETS

PICTURE = Path("out/bench-serve.png")
SPARE = 1.2
"""More requests at 70 % of the capacity than streams that must complete: the short bound on the wait refuses some."""
SHARE, OVERLOAD = 0.7, 3.0
PRESET_S = 3.0

FAST_8 = "hibari, first byte p95, 8 clients as fast as they can over 1"
ALL_CORES = "hibari, capacity with all cores over one thread"
FIRST_8 = "hibari, first sound p95, 8 listeners over 1"
CAPACITY = "hibari, capacity, 8 clients without a pause"
UNDERRUNS = "hibari, underruns at 70 % of capacity"
FIRST_70, FIRST_3X = "hibari, first sound p95 at 70 %", "hibari, first sound p95 of accepted, 3x over 70 %"
HEARD_70 = "hibari, streams heard to the end at 70 %"
REFUSED_70 = "hibari, refused with 429 at 70 %"
REFUSED, FAILED = "hibari, refused with 429 at 3x", "hibari, neither answered nor refused, 70 % and 3x"
PRESET_FIGURES: tuple[tuple[Callable[[str], str], str], ...] = (
    ("pacing {}, first sound p95".format, "ms"),
    ("pacing {}, underruns".format, "in all"),
    ("pacing {}, ahead of playback at most".format, "s of sound"),
)


def figures(plan: ServePlan) -> tuple[Figure, ...]:
    """The figures that `measure_hibari` measures, and that of all cores, with their targets."""
    return (
        Figure(ALL_CORES, "x", at_least(1.8)),
        Figure(FAST_8, "x", at_most(3)),
        Figure(FIRST_8, "x", at_most(3)),
        Figure(CAPACITY, "x real time"),
        Figure(HEARD_70, "streams", at_least(plan.streams)),
        Figure(UNDERRUNS, "in all of them", at_most(0)),
        Figure(FIRST_70, "ms"),
        Figure(REFUSED_70, "%"),
        Figure(FIRST_3X, "x", at_most(1.5)),
        Figure(REFUSED, "%", at_least(1)),
        Figure(FAILED, "streams", at_most(0)),
        *(Figure(name(preset), unit) for preset in PRESETS if plan.preset_rounds for name, unit in PRESET_FIGURES),
    )


def measure_hibari(sheet: Sheet, plan: ServePlan, service: RunningProgram) -> None:
    """Measures `figures`, but that of all cores."""
    asks = RequestSource()
    with sheet.measuring("one client that reads as fast as it can, and eight"):
        measure_fast(sheet, FAST_8, service, asks.paragraph, plan.fast_rounds, plan.fast_s)
    with sheet.measuring("one listener and eight"):
        _measure_listeners(sheet, plan, service, asks)
    with sheet.measuring("capacity, 70 % of it, and three times as much"):
        _measure_rates(sheet, plan, service, asks)
    if plan.preset_rounds:
        with sheet.measuring("the presets of pacing"):
            _measure_presets(sheet, plan, service, asks)


def _measure_listeners(sheet: Sheet, plan: ServePlan, service: RunningProgram, asks: RequestSource) -> None:
    async def one_after_another() -> list[StreamResult]:
        return [await listen(service, asks.sentence()) for _ in range(plan.single_streams)]

    one = summed(one_after_another())
    eight = summed(
        closed_loop(
            service, 8, plan.listeners_s, lambda: asks.sentence("played"), hear_out=True, apart_s=plan.listeners_s / 8
        )
    )
    note = f"{eight.first_ms[1]:.0f} ms over {one.first_ms[1]:.0f} ms; each hears its sound out: {eight}"
    sheet.put(FIRST_8, eight.first_ms[1] / one.first_ms[1], note)


def _measure_rates(sheet: Sheet, plan: ServePlan, service: RunningProgram, asks: RequestSource) -> None:
    full = summed(closed_loop(service, 8, plan.capacity_s, asks.sentence))
    sheet.put(CAPACITY, full.audio_seconds / full.seconds, str(full))
    capacity = full.completed / full.seconds
    usual = _at_rate(service, asks, capacity * SHARE, math.ceil(plan.streams * SPARE))
    sheet.put(HEARD_70, usual.completed, str(usual))
    sheet.put(UNDERRUNS, usual.underruns)
    sheet.put(FIRST_70, usual.first_ms[1], f"{capacity * SHARE:.1f} requests/s, Poisson")
    sheet.put(REFUSED_70, 100 * usual.refused / usual.asked, f"{usual.refused} of {usual.asked}; these made no sound")
    over = _at_rate(service, asks, capacity * OVERLOAD, int(capacity * OVERLOAD * plan.overload_s))
    sheet.put(FIRST_3X, over.first_ms[1] / usual.first_ms[1], f"max_wait_s {MAX_WAIT_S}; {over}")
    sheet.put(REFUSED, 100 * over.refused / over.asked, f"{over.refused} of {over.asked}")
    sheet.put(FAILED, over.failed + usual.failed)
    if plan.curve:
        _draw(service, plan, asks, capacity, {SHARE: usual, OVERLOAD: over})


def _measure_presets(sheet: Sheet, plan: ServePlan, service: RunningProgram, asks: RequestSource) -> None:
    """Measures eight listeners that play all their audio, with each preset in turn, in rounds."""
    heard: dict[str, list[StreamResult]] = {preset: [] for preset in PRESETS}

    def listeners(preset: str) -> float:
        load = closed_loop(service, 8, PRESET_S, lambda: asks.sentence(preset), hear_out=True, apart_s=0.1)
        heard[preset] += (results := asyncio.run(load))
        return float(len(results))

    interleaved({preset: partial(listeners, preset) for preset in PRESETS}, plan.preset_rounds)
    for preset, results in heard.items():
        firsts = [each.first_s * 1000 for each in complete(results) if each.first_s is not None]
        values = (
            quantile(firsts, 0.95),
            sum(each.listener.underruns for each in results),
            max(each.most_ahead_s for each in results),
        )
        for (name, _), value in zip(PRESET_FIGURES, values, strict=True):
            sheet.put(name(preset), value, f"{len(results)} streams, 8 at once, {plan.preset_rounds} rounds")


def _at_rate(service: RunningProgram, asks: RequestSource, per_second: float, count: int) -> LoadSummary:
    return summed(open_loop(service, [asks.sentence() for _ in range(count)], per_second, seed=count))


def _draw(
    service: RunningProgram, plan: ServePlan, asks: RequestSource, capacity: float, known: Mapping[float, LoadSummary]
) -> None:
    """Draws first sound and goodput by rate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    count = {share: int(capacity * share * plan.overload_s) for share in plan.curve}
    points = {share: _at_rate(service, asks, capacity * share, count[share]) for share in plan.curve} | dict(known)
    shares = sorted(points)
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 6))
    above.plot(shares, [points[share].first_ms[1] for share in shares], "o-")
    above.set_ylim(bottom=0)
    above.set_ylabel("first sound p95 of accepted, ms")
    below.plot(shares, [points[share].goodput for share in shares], "o-", label="without underrun")
    below.plot(
        shares, [points[share].refused / points[share].seconds for share in shares], "o--", label="refused (429)"
    )
    below.set_ylabel("streams per second")
    below.set_xlabel(f"requests, as a share of the capacity of {capacity:.1f} per second")
    below.legend()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=120)
    pyplot.close(figure)
