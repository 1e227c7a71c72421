"""What `motet plan` predicts for this machine, beside what the real service does with the same requests.

One real service runs a simulated engine. First it is calibrated: the time of a step for each size of a batch, and of
everything else before a first sound. Then the same requests go to the service and to the simulation at the same times, at
several shares of the capacity that the calibration predicts.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np

from cluster.planning.settings import EngineTimes, MachineClass, PlannedModel, PlannedPlacement
from deployments.settings import StepSettings
from serve_app.bench.frame import Figure, Report, Sheet, at_most, carry_out
from serve_app.bench.load import (
    LoadSummary,
    StreamRequest,
    all_at_once,
    arrival_times,
    complete,
    open_loop,
    summary,
)
from serve_app.bench.running_service import RunningProgram
from serve_app.bench.serve_service import service_of
from serve_app.planning.outcome import TrafficCounts
from serve_app.planning.requests import PlannedText
from serve_app.planning.settings import GatewaySettings, PlanSettings, Traffic
from serve_app.planning.simulation import Simulation

MODEL = "simulated"
STEP_MS, CHUNK_MS, CHARACTER_MS = 100.0, 640.0, 60.0
BATCH = 8
MAX_WAIT_S = 1.0
SIZES = (1, 2, 4, 8)
SHORTEST, LONGEST = 24, 80
"""Characters of a text: one piece."""
SHARES = (0.5, 0.7, 1.0, 3.0)
OVERLOAD_SHORTER = 1.5
"""A load above this share of the capacity has more requests in a second, and is shorter."""
WITHIN = 20.0
"""Percent by which a prediction may be off."""
LEAST_PERCENT = 5.0
"""Percent of the requests. Fewer refusals, or good streams, count as this share: one more or less is chance."""
MEASURES = ("first sound p50", "first sound p95", "goodput", "refusals")


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """How much is measured: streams of the calibration, and seconds of each load."""

    rounds: int
    load_s: float


QUICK, FULL = ComparisonPlan(2, 4.0), ComparisonPlan(6, 40.0)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Times in ms: of a step by the size of its batch, from one to the next, and of all else before a first sound."""

    step_ms: Mapping[int, float]
    hop_ms: float

    @property
    def requests_per_second(self) -> float:
        """The capacity, with full batches."""
        steps = fmean(steps_of(characters) for characters in range(SHORTEST, LONGEST + 1))
        return BATCH / (steps * self.step_ms[BATCH] / 1000)


def steps_of(characters: int) -> int:
    """The steps of a text. A step's sound may come as several chunks of HTTP, so they cannot be counted by a client."""
    return math.ceil(characters * CHARACTER_MS / CHUNK_MS)


def run(quick: bool) -> Report:
    """Compares; `quick` takes shorter loads and ends within 50 s."""
    plan = QUICK if quick else FULL
    figures = [
        *(Figure(f"step, batch {size}", "ms") for size in SIZES),
        Figure("before and after a step", "ms"),
        Figure("capacity", "requests/s"),
        *(Figure(_name(share, what), "%", at_most(WITHIN)) for share in SHARES for what in MEASURES),
    ]

    def measure(sheet: Sheet) -> None:
        with service_of(_config()) as service:
            with sheet.measuring("calibration"):
                calibration = asyncio.run(calibrated(service, plan))
                _put_calibration(sheet, calibration)
            with sheet.measuring("the service under load"):
                loads = [
                    _load(share, calibration, plan.load_s / max(1.0, share / OVERLOAD_SHORTER)) for share in SHARES
                ]
                heard = asyncio.run(_answered(service, loads))
        with sheet.measuring("the simulation of the same requests"):
            predicted = predict(calibration, loads, [began_s for began_s, _ in heard])
            for load, (_, real), counts in zip(loads, heard, predicted, strict=True):
                _put_comparison(sheet, load, real, counts)

    return carry_out("plan", figures, measure, quick=quick)


def _name(share: float, what: str) -> str:
    return f"error of {what} at {100 * share:.0f} % of capacity"


def _config() -> dict[str, Any]:
    options = {"step_ms": STEP_MS, "chunk_ms": CHUNK_MS, "character_ms": CHARACTER_MS}
    placement = {"hardware": {"kind": "cpu", "cpus": 0.1}}
    model = {"engine": "simulated", "options": options, "max_wait_s": MAX_WAIT_S, "placements": [placement]}
    return {"models": {MODEL: {**model, "steps": {"max_batch_size": BATCH}}}}


@dataclass(frozen=True, slots=True)
class ComparedLoad:
    """Requests for a share of the capacity: when each is due, in seconds from the start, and its text's length."""

    share: float
    per_second: float
    at_s: Sequence[float]
    characters: Sequence[int]

    @property
    def seed(self) -> int:
        """Of the arrivals."""
        return len(self.at_s)

    def requests(self) -> list[StreamRequest]:
        """The requests for the service, each with another text: the service keeps sounds."""
        return [
            StreamRequest(MODEL, f"Tone {number} ".ljust(length - 1, "a") + ".", round(self.share * 1000) + number)
            for number, length in enumerate(self.characters)
        ]


def _load(share: float, calibration: Calibration, seconds: float) -> ComparedLoad:
    per_second = calibration.requests_per_second * share
    count = max(20, round(per_second * seconds))
    characters = np.random.default_rng(count).integers(SHORTEST, LONGEST + 1, count)
    return ComparedLoad(share, per_second, arrival_times(count, per_second, count), characters.tolist())


async def calibrated(service: RunningProgram, plan: ComparisonPlan) -> Calibration:
    """Measures steps of all sizes, and the first sound of single requests."""
    numbers = iter(range(1_000_000))

    def texts(count: int) -> list[StreamRequest]:
        return [
            StreamRequest(MODEL, f"Step {number} ".ljust(LONGEST - 1, "b") + ".", 500_000 + number)
            for number, _ in zip(numbers, range(count), strict=False)
        ]

    steps: dict[int, float] = {}
    firsts: list[float] = []
    for size in SIZES:
        gaps: list[float] = []
        for _ in range(plan.rounds if size == 1 else math.ceil(plan.rounds / 2)):  # larger ones have more streams
            results = complete(await all_at_once(service, texts(size)))
            gaps += (sum(heard.gaps_s) / (steps_of(LONGEST) - 1) for heard in results)
            firsts += (heard.first_s for heard in results if size == 1 and heard.first_s is not None)
        steps[size] = median(gaps) * 1000
    return Calibration(steps, max(0.0, median(firsts) * 1000 - steps[1]))


async def _answered(service: RunningProgram, loads: Sequence[ComparedLoad]) -> list[tuple[float, LoadSummary]]:
    """What the service did with each load, and when each began, in seconds from the first one."""
    heard, origin = [], time.monotonic()
    for load in loads:
        began = time.monotonic()
        results = await open_loop(service, load.requests(), load.per_second, load.seed)
        heard.append((began - origin, summary(results, began)))
    return heard


def predict(calibration: Calibration, loads: Sequence[ComparedLoad], began_s: Sequence[float]) -> list[TrafficCounts]:
    """What the simulation does with the same requests at the same times."""
    simulation = Simulation(settings_of(calibration, began_s[-1] + loads[-1].at_s[-1] + 120.0))
    for load, began in zip(loads, began_s, strict=True):
        requests = (
            (began + at_s, PlannedText(MODEL, float(length), 1000 / CHARACTER_MS, max_wait_s=MAX_WAIT_S))
            for at_s, length in zip(load.at_s, load.characters, strict=True)
        )
        simulation.replay(str(load.share), requests)
    counts = simulation.run().traffic
    return [counts[str(load.share)] for load in loads]


def settings_of(calibration: Calibration, duration_s: float) -> PlanSettings:
    """This machine as a plan."""
    engine = EngineTimes(step_ms=calibration.step_ms, chunk_seconds_of_audio=CHUNK_MS / 1000)
    placement = PlannedPlacement(machines="here", engine=engine, replicas=1)
    model = PlannedModel(
        characters_per_second=1000 / CHARACTER_MS,
        steps=StepSettings(max_batch_size=BATCH),
        max_wait_s=MAX_WAIT_S,
        placements=(placement,),
    )
    gateways = GatewaySettings(request_ms=0.0, chunk_ms=0.0, refusal_ms=0.0, hop_ms=calibration.hop_ms)
    return PlanSettings(
        duration_s=duration_s,
        interval_s=duration_s,
        traffic=Traffic(),
        models={MODEL: model},
        machines={"here": MachineClass(measured=True)},
        gateways=gateways,
    )


def _put_calibration(sheet: Sheet, calibration: Calibration) -> None:
    for size, step_ms in calibration.step_ms.items():
        sheet.put(f"step, batch {size}", step_ms)
    sheet.put("before and after a step", calibration.hop_ms)
    sheet.put("capacity", calibration.requests_per_second)


def _put_comparison(sheet: Sheet, load: ComparedLoad, real: LoadSummary, counts: TrafficCounts) -> None:
    seconds = real.seconds
    first = [counts.first.quantile_ms(share) or float("nan") for share in (0.5, 0.95)]
    pairs = {
        "first sound p50": (first[0], real.first_ms[0], "ms"),
        "first sound p95": (first[1], real.first_ms[1], "ms"),
        "goodput": (counts.good / seconds, real.goodput, "streams/s"),
    }
    for what, (predicted, measured, unit) in pairs.items():
        note = f"predicted {predicted:.4g}, measured {measured:.4g} {unit}; {len(load.at_s)} requests"
        least = 0.0 if unit == "ms" else load.per_second * LEAST_PERCENT / 100
        sheet.put(_name(load.share, what), 100 * abs(predicted - measured) / max(measured, least), note)
    predicted, measured = counts.refused_percent, 100 * real.refused / real.asked
    error = 100 * abs(predicted - measured) / max(measured, LEAST_PERCENT)
    note = f"predicted {predicted:.1f}, measured {measured:.1f} % of {real.asked} requests"
    sheet.put(_name(load.share, "refusals"), error, note)
