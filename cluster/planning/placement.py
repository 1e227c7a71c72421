"""A simulated placement: its replicas, and a model of Ray Serve's router in front of them.

The router takes the less busy one of two random replicas. Calls that find all of them full wait in order of arrival.
"""

from __future__ import annotations

import random
from collections import deque

from cluster.planning.clock import SimulatedTime
from cluster.planning.engine_times import StepTimes
from cluster.planning.replica import EngineCall, SimulatedReplica
from cluster.planning.settings import PlannedModel, PlannedPlacement


class SimulatedPlacement:
    """The running replicas of one model on one class of machines."""

    def __init__(
        self,
        time: SimulatedTime,
        model: str,
        planned: PlannedModel,
        settings: PlannedPlacement,
        gateways: int,
        seed: int,
    ) -> None:
        self.name = f"{model}@{settings.machines}"
        self.model = model
        self.settings = settings
        self.running: list[SimulatedReplica] = []
        self.queue = deque[EngineCall]()
        self._started_s: dict[SimulatedReplica, float] = {}
        self._stopped_s = self._stopped_busy_s = 0.0
        self._time = time
        self._planned = planned
        self._times = StepTimes(settings.engine)
        self._most_queued = settings.max_queued_requests * gateways
        self._random = random.Random(seed)  # noqa: S311 - a simulation

    def new_replica(self) -> SimulatedReplica:
        """A replica, which takes no calls before `start`."""
        chunk = self.settings.engine.chunk_seconds_of_audio
        return SimulatedReplica(self._time, self._planned.steps, self._times, chunk, self._freed)

    def start(self, replica: SimulatedReplica) -> None:
        """A replica is ready."""
        self.running.append(replica)
        self._started_s[replica] = self._time.now()
        self._freed(replica)

    def stop(self, replica: SimulatedReplica) -> None:
        """A replica takes no more calls."""
        replica.draining = True
        if replica in self.running:
            self.running.remove(replica)
            self._stopped_s += self._time.now() - self._started_s.pop(replica)
            self._stopped_busy_s += replica.busy_s

    @property
    def busy_percent(self) -> float:
        """How busy the engines of all replicas were so far."""
        ran_s = self._stopped_s + sum(self._time.now() - started_s for started_s in self._started_s.values())
        busy_s = self._stopped_busy_s + sum(replica.busy_s for replica in self.running)
        return 100 * busy_s / ran_s if ran_s else 0.0

    def send(self, call: EngineCall) -> bool:
        """Gives a call to a replica, or keeps it until one is free. False if too many wait already."""
        replica = self._chosen()
        if replica is not None:
            replica.accept(call)
            return True
        if len(self.queue) >= self._most_queued:
            return False
        self.queue.append(call)
        return True

    @property
    def waiting(self) -> int:
        """Calls that no replica has seen."""
        return sum(not call.cancelled for call in self.queue)

    def _chosen(self) -> SimulatedReplica | None:
        """The less busy one of two random replicas; if it is full, the least busy of all, if that is not full."""
        running, most = self.running, self.settings.max_ongoing_requests
        if not running:
            return None
        one, other = (running[int(self._random.random() * len(running))] for _ in range(2))
        best = one if len(one.calls) <= len(other.calls) else other
        if len(best.calls) >= most:
            best = min(running, key=lambda replica: len(replica.calls))
        return best if len(best.calls) < most else None

    def _freed(self, replica: SimulatedReplica) -> None:
        while self.queue and not replica.draining and len(replica.calls) < self.settings.max_ongoing_requests:
            call = self.queue.popleft()
            if not call.cancelled:
                replica.accept(call)
