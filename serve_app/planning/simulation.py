"""Simulates a plan: clients, gateways, replicas and machines on one simulated clock.

The grain is a step of a batch and a chunk of audio. The service's own code decides: `Admission`, `PlacementState`,
`StepOpening`, `choose`, `ListenerDeadline`, `ListenerClock` and `PlacementScaling`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from cluster.demand import METRICS_EVERY_S, DemandBoard
from cluster.planning.clock import SimulatedTime
from cluster.planning.fleet import SimulatedFleet
from cluster.planning.placement import SimulatedPlacement
from cluster.planning.scaling import SimulatedScaling
from cluster.planning.settings import MachineClass, PlannedPlacement
from serve_app.planning.bulk_share import bulk_needs
from serve_app.planning.gateway import SimulatedGateway
from serve_app.planning.outcome import CurvePoint, PlanResult, TrafficCounts
from serve_app.planning.requests import PlannedText
from serve_app.planning.settings import PlanSettings
from serve_app.planning.traffic import SimulatedClients

ROUNDING = 1e-9
"""A duration of whole intervals, in floating point, has no shorter interval after them."""


def simulate(settings: PlanSettings) -> PlanResult:
    """Simulates one of the plan's cells; the result is that of all of them. The same settings give the same result."""
    return Simulation(settings).run()


class Simulation:
    """One run of a plan."""

    def __init__(self, settings: PlanSettings) -> None:
        self.time = SimulatedTime()
        self._settings = settings
        gateways = divided(settings.gateways.replicas, settings.cells)
        seeds = iter(range(settings.seed * 1000, settings.seed * 1000 + 1000))
        self.placed = {
            name: [
                SimulatedPlacement(self.time, name, model, _cell(each, settings.cells), gateways, next(seeds))
                for each in model.placements
            ]
            for name, model in settings.models.items()
        }
        placements = [each for placed in self.placed.values() for each in placed]
        classes = {kind: _cell_class(each, settings.cells) for kind, each in settings.machines.items()}
        self.fleet = SimulatedFleet(self.time, classes, placements, next(seeds))
        front = settings.gateways.model_copy(update={"replicas": gateways})
        self.gateways = [SimulatedGateway(self.time, front, settings.rules, self.placed) for _ in range(gateways)]
        self._placements = placements
        self._scalings = self._autoscaled(DemandBoard())
        self._points: list[CurvePoint] = []
        self._gateway_cost_per_hour = gateways * settings.gateways.price_per_hour
        self._warm_up_cost = 0.0
        self.fleet.begin()
        self.clients = SimulatedClients(self.time, settings, self.gateways, settings.seed)
        for loss in settings.zone_losses:
            self.time.later(loss.at_s, partial(self.fleet.lose_zone, loss))
        self.time.later(settings.warm_up_s, self._end_warm_up)
        self.time.process(self._control())
        self.time.process(self._watch())

    def replay(self, name: str, requests: Iterable[tuple[float, PlannedText]]) -> None:
        """Adds requests at given times, in seconds, counted as the traffic `name`."""
        self.clients.counts[name] = TrafficCounts()
        for at_s, text in requests:
            self.time.later(at_s, partial(self.clients.request, text, name))

    def run(self) -> PlanResult:
        """Lets the duration pass."""
        settings = self._settings
        self.time.run_until(settings.duration_s)
        self.fleet.tick()
        self._points.append(self._point())
        cost = self._cost()
        return PlanResult(
            traffic=self.clients.counts,
            points=tuple(self._points),
            hours=settings.duration_s / 3600,
            cost=cost,
            counted_cost=cost - self._warm_up_cost,
            bulk=bulk_needs(settings),
            unmeasured=tuple(kind for kind, each in settings.machines.items() if not each.measured),
            most_machines={kind: most * settings.cells for kind, most in self.fleet.most.items()},
            busy_percent={each.name: each.busy_percent for each in self._placements},
            cells=settings.cells,
        )

    def _cost(self) -> float:
        """What the machines and gateways of all cells cost so far."""
        gateways = self._gateway_cost_per_hour * self.time.now() / 3600
        return (self.fleet.paid() + gateways) * self._settings.cells

    def _end_warm_up(self) -> None:
        self._warm_up_cost = self._cost()

    def _autoscaled(self, board: DemandBoard) -> list[SimulatedScaling]:
        seconds = self._settings.rules.request_seconds_of_audio
        return [
            SimulatedScaling(placement, scaling, board, seconds)
            for placement in self._placements
            if (scaling := placement.settings.autoscaling) is not None
        ]

    def _control(self) -> Iterator[float]:
        """What Ray Serve's controller and the cluster's autoscaler do."""
        while True:
            yield METRICS_EVERY_S
            for scaling in self._scalings:
                scaling.tick(self.fleet, self.time.now())
            self.fleet.tick()

    def _watch(self) -> Iterator[float]:
        """Takes all points but the last one, which `run` takes at the end."""
        interval_s, duration_s = self._settings.interval_s, self._settings.duration_s
        for _ in range(math.ceil(duration_s / interval_s * (1 - ROUNDING)) - 1):
            yield interval_s
            self._points.append(self._point())

    def _point(self) -> CurvePoint:
        cells, recent = self._settings.cells, self.clients.recent
        self.clients.recent = TrafficCounts()
        reports = [report for gateway in self.gateways for report in gateway.admission.snapshot().values()]
        return CurvePoint(
            at_s=self.time.now(),
            open_streams=self.clients.open_streams * cells,
            queued_seconds=sum(report.queued_seconds for report in reports) * cells,
            replicas={each.name: len(each.running) * cells for each in self._placements},
            machines={kind: len(machines) * cells for kind, machines in self.fleet.machines.items()},
            asked=recent.asked * cells,
            refused=recent.refused * cells,
            first_p95_ms=recent.first.quantile_ms(0.95),
            cost_per_hour=(self.fleet.cost_per_hour + self._gateway_cost_per_hour) * cells,
        )


def divided(count: int, cells: int) -> int:
    """One cell's part of a count, rounded up."""
    return math.ceil(count / cells)


def _cell(settings: PlannedPlacement, cells: int) -> PlannedPlacement:
    """A placement in one cell."""
    if cells == 1:
        return settings
    changes: Mapping[str, object] = {"replicas": divided(settings.replicas or 1, cells)}
    if scaling := settings.autoscaling:
        limits = {name: divided(getattr(scaling, name), cells) for name in ("min_replicas", "max_replicas")}
        changes = {"autoscaling": scaling.model_copy(update=limits)}
    return settings.model_copy(update=changes)


def _cell_class(settings: MachineClass, cells: int) -> MachineClass:
    """A class of machines in one cell."""
    return settings.model_copy(update={"least": divided(settings.least, cells), "most": divided(settings.most, cells)})
