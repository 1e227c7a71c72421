"""The cheapest fleet that keeps a promise: numbers of replicas, tried by simulation.

Each class of machines is tried alone, and all of them together in the plan's own proportions. Bisection finds the number of
replicas of each of these shapes; but for chance, more replicas of one shape never make its first sound later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from cluster.planning.settings import PlannedModel
from deployments.errors import fail
from serve_app.planning.outcome import FoundFleet, PlanResult
from serve_app.planning.settings import PlanSettings

Simulate = Callable[[PlanSettings], PlanResult]
Shape = Callable[[float], PlanSettings]

MOST_REPLICAS = 1 << 14
LONGEST_TRY_S = 300.0
"""A try is simulated for at most this long, at the busiest moment of the day."""
WARM_UP_SHARE = 0.2
STREAMS_OF_A_CELL = 500
STREAMS_OF_A_GATEWAY = 100
"""A gateway replica carries more; its share of a core for the admission of a stream grows with their number."""


def find(
    settings: PlanSettings, simulate: Simulate, report: Callable[[str], None] = lambda _: None
) -> list[FoundFleet]:
    """The smallest fleet of each shape that keeps the promise at the busiest moment, the cheapest first."""
    tried = (_smallest(name, shape, simulate, report) for name, shape in shapes(settings))
    found = [fleet for fleet in tried if fleet is not None]
    return sorted(found, key=lambda fleet: fleet.cost_per_hour)


def for_streams(settings: PlanSettings, streams: int) -> PlanSettings:
    """The plan's traffic for so many streams and conversations at once, in the same proportions, in cells of at most
    `STREAMS_OF_A_CELL`. Raises `MotetError` (invalid) if the plan has none."""
    traffic = settings.traffic
    now = sum(each.streams_at_once for each in traffic.speech) + sum(each.sessions_at_once for each in traffic.live)
    if not now:
        raise fail("invalid", "The plan has no streams at once, so it cannot be made larger.", "Add traffic to it.")
    factor = streams / now
    speech = tuple(
        each.model_copy(update={"streams_at_once": each.streams_at_once * factor}) for each in traffic.speech
    )
    live = tuple(each.model_copy(update={"sessions_at_once": each.sessions_at_once * factor}) for each in traffic.live)
    recordings = tuple(each.model_copy(update={"per_hour": each.per_hour * factor}) for each in traffic.recordings)
    gateways = math.ceil(streams / STREAMS_OF_A_GATEWAY)
    return settings.model_copy(
        update={
            "traffic": traffic.model_copy(update={"speech": speech, "live": live, "recordings": recordings}),
            "gateways": settings.gateways.model_copy(update={"replicas": gateways}),
            "cells": math.ceil(streams / STREAMS_OF_A_CELL),
        }
    )


def shapes(settings: PlanSettings) -> Iterator[tuple[str, Shape]]:
    """Names of shapes, and how a shape of a size becomes a plan."""
    busiest = at_the_busiest_moment(settings)
    kinds = [placed.machines for model in settings.models.values() for placed in model.placements]
    for kind in dict.fromkeys(kinds):
        if all(any(placed.machines == kind for placed in model.placements) for model in settings.models.values()):
            yield f"only {kind}", lambda size, kind=kind: _sized(busiest, size, kind)  # type: ignore[misc]
    if len(set(kinds)) > 1:
        yield "as planned", lambda size: _sized(busiest, size, None)


def at_the_busiest_moment(settings: PlanSettings) -> PlanSettings:
    """The plan with its busiest moment throughout, and shorter, without bulk jobs: they have machines of their own."""
    flat = {"day_curve": (1.0,)}
    traffic = settings.traffic.model_copy(
        update={
            name: tuple(each.model_copy(update=flat) for each in getattr(settings.traffic, name))
            for name in ("speech", "live", "recordings")
        }
    )
    duration_s = min(settings.duration_s, LONGEST_TRY_S)
    traffic = traffic.model_copy(update={"bulk": ()})
    short = {"duration_s": duration_s, "warm_up_s": duration_s * WARM_UP_SHARE, "interval_s": duration_s / 4}
    return settings.model_copy(update={"traffic": traffic, "zone_losses": (), **short})


def _sized(settings: PlanSettings, size: float, only: str | None) -> PlanSettings:
    """A plan with fixed numbers of replicas: `size` of a class in each cell, or `size` 64ths of the most of each
    placement."""
    each = size * settings.cells if only is not None else size
    models = {name: _sized_model(model, each, only) for name, model in settings.models.items()}
    return settings.model_copy(update={"models": models})


def _sized_model(model: PlannedModel, size: float, only: str | None) -> PlannedModel:
    placements = []
    for placed in model.placements:
        if only is not None and placed.machines != only:
            continue
        usual = placed.autoscaling.max_replicas if placed.autoscaling else placed.replicas or 1
        replicas = math.ceil(size if only is not None else size * usual / 64)
        placements.append(placed.model_copy(update={"replicas": replicas, "autoscaling": None}))
    return model.model_copy(update={"placements": tuple(placements)})


def _smallest(name: str, shape: Shape, simulate: Simulate, report: Callable[[str], None]) -> FoundFleet | None:
    """The smallest size of a shape that keeps the promise; None if none does."""

    def tried(size: int) -> FoundFleet | None:
        plan = shape(size)
        result = simulate(plan)
        good = result.keeps(plan.promise)
        report(f"{name}, {size}: {'kept' if good else 'broken'}")
        last = result.points[-1]
        return FoundFleet(name, last.replicas, last.cost_per_hour, result) if good else None

    size, best = 1, None
    while size <= MOST_REPLICAS and (best := tried(size)) is None:
        size *= 2
    low, high = size // 2, size
    while best is not None and high - low > max(1, high // 50):
        middle = (low + high) // 2
        fleet = tried(middle)
        low, high = (low, middle) if fleet else (middle, high)
        best = fleet or best
    return best
