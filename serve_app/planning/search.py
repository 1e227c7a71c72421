"""The cheapest fleet that keeps a promise: numbers of replicas, tried by simulation.

Each class of machines is tried alone, and all of them together in the plan's own proportions. Of each of these shapes,
bisection finds the least size that keeps the promise, where all models grow together. Then the replicas of each
placement, the most expensive ones first, are reduced as far as the promise allows. But for chance, more replicas never make
a first sound later.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from cluster.planning.settings import PlannedModel, PlannedPlacement
from deployments.errors import fail
from serve_app.planning.outcome import FoundFleet, PlanResult
from serve_app.planning.settings import PlanSettings

Simulate = Callable[[PlanSettings], PlanResult]
Place = tuple[str, str]
"""A model and a class of machines."""

MOST_REPLICAS = 1 << 14
"""Of a placement in one cell."""
SHARES = 64
"""Into so many parts the plan's own fleet is divided, where all its classes are tried together."""
TRY_S = 300.0
"""A try is simulated for this long, at the busiest moment of the day, or for longer if texts are long."""
WARM_UP_SHARE = 0.2
WARM_UP_LENGTHS, COUNTED_LENGTHS = 2.0, 2.0
"""A try lasts at least this many mean lengths of the longest texts: until as many streams end as begin, and after that."""
STREAMS_OF_A_CELL = 500
STREAMS_OF_A_GATEWAY = 100
"""A gateway replica carries more; its share of a core for the admission of a stream grows with their number."""


@dataclass(frozen=True, slots=True)
class FleetShape:
    """Which placements a fleet has, and how many replicas each has in a cell of size 1. Larger sizes have multiples."""

    name: str
    unit: Mapping[Place, float]

    def of(self, size: int) -> dict[Place, int]:
        """The replicas of each placement in a cell."""
        return {place: max(1, math.ceil(size * share)) for place, share in self.unit.items()}


def find(
    settings: PlanSettings, simulate: Simulate, report: Callable[[str], None] = lambda _: None
) -> list[FoundFleet]:
    """The smallest fleet of each shape that keeps the promise at the busiest moment, the cheapest first."""
    busiest = at_the_busiest_moment(settings)
    tried = (_smallest(_FleetTrial(busiest, shape.name, simulate, report), shape) for shape in shapes(settings))
    found = [fleet for fleet in tried if fleet is not None]
    return sorted(found, key=lambda fleet: fleet.cost_per_hour)


def for_streams(settings: PlanSettings, streams: int, of_a_cell: int = STREAMS_OF_A_CELL) -> PlanSettings:
    """The plan's traffic for so many streams and conversations at once, in the same proportions, in cells of at most
    `of_a_cell`. Raises `MotetError` (invalid) if the plan has none."""
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
    return settings.model_copy(
        update={
            "traffic": traffic.model_copy(update={"speech": speech, "live": live, "recordings": recordings}),
            "gateways": settings.gateways.model_copy(update={"replicas": gateways_for(streams)}),
            "cells": math.ceil(streams / of_a_cell),
        }
    )


def gateways_for(streams: int) -> int:
    """Gateway replicas for so many streams at once."""
    return math.ceil(streams / STREAMS_OF_A_GATEWAY)


def shapes(settings: PlanSettings) -> Iterator[FleetShape]:
    """Each class of machines on which all models have a placement, and all classes in the plan's own proportions."""
    placed = {(name, each.machines): each for name, model in settings.models.items() for each in model.placements}
    kinds = dict.fromkeys(kind for _, kind in placed)
    for kind in kinds:
        if all((name, kind) in placed for name in settings.models):
            yield FleetShape(f"only {kind}", {(name, kind): 1.0 for name in settings.models})
    if len(kinds) > 1:
        cells = settings.cells * SHARES
        yield FleetShape("as planned", {place: _most_replicas(each) / cells for place, each in placed.items()})


def _most_replicas(placed: PlannedPlacement) -> int:
    return placed.autoscaling.max_replicas if placed.autoscaling else placed.replicas or 1


def at_the_busiest_moment(settings: PlanSettings) -> PlanSettings:
    """The plan with its busiest moment throughout, without bulk jobs, which have machines of their own. It is as long as a
    try needs."""
    flat = {"day_curve": (1.0,)}
    traffic = settings.traffic.model_copy(
        update={
            name: tuple(each.model_copy(update=flat) for each in getattr(settings.traffic, name))
            for name in ("speech", "live", "recordings")
        }
    )
    longest_s = _longest_mean_s(settings)
    enough_s = longest_s * (WARM_UP_LENGTHS + COUNTED_LENGTHS)
    duration_s = max(min(settings.duration_s, TRY_S), enough_s)
    warm_up_s = max(duration_s * WARM_UP_SHARE, longest_s * WARM_UP_LENGTHS)
    times = {"duration_s": duration_s, "warm_up_s": warm_up_s, "interval_s": duration_s / 4}
    traffic = traffic.model_copy(update={"bulk": ()})
    return settings.model_copy(update={"traffic": traffic, "zone_losses": (), **times})


def _longest_mean_s(settings: PlanSettings) -> float:
    """The mean length of the traffic with the longest texts, in seconds of audio."""
    traffic, models = settings.traffic, settings.models
    speech = [each.text.mean_characters / models[each.model].characters_per_second for each in traffic.speech]
    live = [
        each.turn_s + each.answer.mean_characters / models[each.speaks_with].characters_per_second
        for each in traffic.live
    ]
    return max((*speech, *live), default=0.0)


def with_replicas(settings: PlanSettings, replicas: Mapping[Place, int]) -> PlanSettings:
    """The plan with fixed numbers of replicas in each cell, and neither other placements nor machines of other classes."""
    models = {name: _fixed_model(name, model, replicas, settings.cells) for name, model in settings.models.items()}
    used = {kind for _, kind in replicas}
    machines = {
        kind: each if kind in used else each.model_copy(update={"least": 0}) for kind, each in settings.machines.items()
    }
    return settings.model_copy(update={"models": models, "machines": machines})


def _fits(settings: PlanSettings, replicas: Mapping[Place, int]) -> bool:
    """Whether there are machines for so many replicas in each cell."""
    counts = Counter[str]()
    for (_, kind), count in replicas.items():
        counts[kind] += count * settings.cells
    machines = settings.machines
    within = (count <= machines[kind].most * machines[kind].replicas_each for kind, count in counts.items())
    return all(within) and max(replicas.values()) <= MOST_REPLICAS


def _fixed_model(name: str, model: PlannedModel, replicas: Mapping[Place, int], cells: int) -> PlannedModel:
    kept = [placed for placed in model.placements if (name, placed.machines) in replicas]
    fixed = (
        placed.model_copy(update={"replicas": replicas[name, placed.machines] * cells, "autoscaling": None})
        for placed in kept
    )
    return model.model_copy(update={"placements": tuple(fixed)})


@dataclass(frozen=True, slots=True)
class _FleetTrial:
    """Simulates fleets of one shape."""

    settings: PlanSettings
    shape: str
    simulate: Simulate
    report: Callable[[str], None]
    known: dict[tuple[int, ...], FoundFleet | None] = field(default_factory=dict)

    def of(self, replicas: Mapping[Place, int]) -> FoundFleet | None:
        """The fleet; None if it breaks the promise. Each is simulated once."""
        counts = tuple(replicas.values())
        if counts not in self.known:
            self.known[counts] = self._tried(replicas)
        return self.known[counts]

    def _tried(self, replicas: Mapping[Place, int]) -> FoundFleet | None:
        result = self.simulate(with_replicas(self.settings, replicas))
        kept = result.keeps(self.settings.promise)
        counts = ", ".join(f"{count} {name}@{kind}" for (name, kind), count in replicas.items())
        self.report(f"{self.shape}, a cell of {counts}: {'kept' if kept else 'broken'}")
        last = result.points[-1]
        return FoundFleet(self.shape, last.replicas, last.machines, last.cost_per_hour, result) if kept else None


def _smallest(trial: _FleetTrial, shape: FleetShape) -> FoundFleet | None:
    """The smallest fleet of a shape that keeps the promise; None if none does."""
    low, size, best = 0, 1, trial.of(shape.of(1))
    while best is None and (larger := _larger(trial.settings, shape, size)) > size:
        low, size = size, larger
        best = trial.of(shape.of(size))
    if best is None:
        return None
    size, best = _least(low, size, best, lambda each: trial.of(shape.of(each)))
    replicas = shape.of(size)
    for place in _expensive_first(trial.settings, replicas) if len(replicas) > 1 else ():
        replicas[place], best = _least(
            0,
            replicas[place],
            best,
            lambda count, place=place: trial.of({**replicas, place: count}),  # type: ignore[misc]
        )
    return best


def _larger(settings: PlanSettings, shape: FleetShape, size: int) -> int:
    """Twice the size, or the largest one below that for which there are machines; the same size if there are none."""
    low, high = size, 2 * size
    if _fits(settings, shape.of(high)):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(settings, shape.of(middle)) else (low, middle)
    return low


def _least(low: int, high: int, best: FoundFleet, tried: Callable[[int], FoundFleet | None]) -> tuple[int, FoundFleet]:
    """The least number above `low` that keeps the promise, to 2 percent, and its fleet; `high` does, with `best`."""
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        fleet = tried(middle)
        low, high = (low, middle) if fleet else (middle, high)
        best = fleet or best
    return high, best


def _expensive_first(settings: PlanSettings, replicas: Mapping[Place, int]) -> list[Place]:
    """Placements by what all their replicas cost."""

    def cost(place: Place) -> float:
        machines = settings.machines[place[1]]
        return replicas[place] * machines.price_per_hour / machines.replicas_each

    return sorted(replicas, key=cost, reverse=True)
