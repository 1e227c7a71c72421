"""The simulated reports of replicas, and the service's own policy that makes a number of replicas of them."""

from __future__ import annotations

from collections import deque
from statistics import fmean

from cluster.demand import METRICS_EVERY_S, AutoscalingSettings, DemandBoard, ModelKey, PlacementScaling
from cluster.planning.fleet import ScalingDelays, SimulatedFleet
from cluster.planning.placement import SimulatedPlacement
from cluster.planning.replica import SimulatedReplica
from deployments.replica.load import FIRST_SOUND_P95, QUEUED


class SimulatedScaling:
    """Autoscaling of one placement, every `METRICS_EVERY_S`. Ray Serve passes on the mean of the reports of a time."""

    def __init__(
        self, placement: SimulatedPlacement, settings: AutoscalingSettings, board: DemandBoard, request_seconds: float
    ) -> None:
        self._placement = placement
        self._policy = PlacementScaling(settings, board)
        self._delays = ScalingDelays(settings.up_after_s, settings.down_after_s, settings.zero_after_s)
        self._request_seconds = request_seconds
        self._kept = max(1, round(settings.look_back_s / METRICS_EVERY_S))
        self._reports: dict[SimulatedReplica, deque[tuple[float, float]]] = {}
        self._waiting = deque[float](maxlen=self._kept)

    def tick(self, fleet: SimulatedFleet, now_s: float) -> None:
        """Sets the placement's target."""
        placement = self._placement
        self._collect()
        queued = [fmean(seconds for seconds, _ in reports) for reports in self._reports.values()]
        firsts = [fmean(first_s for _, first_s in reports) for reports in self._reports.values()]
        load = self._policy.load(queued, firsts, fmean(self._waiting) * self._request_seconds)
        running, target = len(placement.running), fleet.targets[placement.name]
        wanted = self._policy.wanted(ModelKey("plan", placement.model), placement.name, running, target, load, now_s)
        fleet.targets[placement.name] = self._delays.decide(wanted, target, running, now_s)

    def _collect(self) -> None:
        old = self._reports
        self._reports = {each: old.get(each) or deque(maxlen=self._kept) for each in self._placement.running}
        for replica, reports in self._reports.items():
            stats = replica.load.stats()
            reports.append((stats[QUEUED], stats[FIRST_SOUND_P95]))
        self._waiting.append(self._placement.waiting)
