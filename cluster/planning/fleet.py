"""Simulated machines: they start in parts, hold replicas, cost money, and are lost.

The service's own policy decides how many replicas there are (`PlacementScaling`). `ScalingDelays` models what Ray Serve
does with its answer.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.planning.clock import SimulatedTime
from cluster.planning.placement import SimulatedPlacement
from cluster.planning.replica import SimulatedReplica
from cluster.planning.settings import MachineClass, ZoneLoss


@dataclass(slots=True, eq=False)
class SimulatedMachine:
    """A machine from its request to its end. `places` are the replicas that it holds, or that start when it is ready."""

    kind: str
    zone: int
    ready: bool = False
    ended: bool = False
    places: dict[SimulatedReplica, SimulatedPlacement] = field(default_factory=dict)
    unused_since_s: float = 0.0


class SimulatedFleet:
    """All machines, and the replicas on them."""

    def __init__(
        self,
        time: SimulatedTime,
        classes: Mapping[str, MachineClass],
        placements: Sequence[SimulatedPlacement],
        seed: int,
    ) -> None:
        self.machines: dict[str, list[SimulatedMachine]] = {kind: [] for kind in classes}
        self.targets = {each.name: 0 for each in placements}
        self.most = dict.fromkeys(classes, 0)
        """The most machines of each class so far."""
        self._spent = 0.0
        self._time = time
        self._classes = classes
        self._placements = placements
        self._random = random.Random(seed)  # noqa: S311 - a simulation
        self._closed_until_s: dict[tuple[str, int], float] = {}
        self._paid_until_s = 0.0
        self._running_at: dict[SimulatedReplica, SimulatedMachine] = {}

    def begin(self) -> None:
        """The fleet at the start: the least machines, and the replicas that each placement begins with, all ready."""
        for kind, settings in self._classes.items():
            for _ in range(settings.least):
                self._add(kind, ready=True)
        for placement in self._placements:
            self.targets[placement.name] = placement.settings.first_replicas
            for _ in range(self.targets[placement.name]):
                machine = self._with_a_place(placement.settings.machines) or self._add(
                    placement.settings.machines, ready=True
                )
                if machine is not None:
                    placement.start(self._hold(machine, placement))

    def replicas(self, placement: SimulatedPlacement) -> int:
        """Replicas that run or start."""
        return sum(
            placed is placement and not replica.draining
            for machine in self.machines[placement.settings.machines]
            for replica, placed in machine.places.items()
        )

    def tick(self) -> None:
        """Pays, removes what is drained or unused, and brings every placement nearer to its target."""
        self._pay()
        for machines in self.machines.values():
            for machine in machines:
                for replica in [each for each in machine.places if each.draining and not each.calls]:
                    self._release(machine, replica)
        for placement in self._placements:
            self._reconcile(placement)
        for kind, settings in self._classes.items():
            self._give_back(kind, settings)

    @property
    def cost_per_hour(self) -> float:
        """What the machines cost now for an hour."""
        return sum(self._classes[kind].price_per_hour * len(machines) for kind, machines in self.machines.items())

    def lose_zone(self, loss: ZoneLoss) -> None:
        """All machines of a zone end, and it gives no new ones for a while."""
        self._closed_until_s[loss.machines, loss.zone] = self._time.now() + loss.lasts_s
        for machine in [each for each in self.machines[loss.machines] if each.zone == loss.zone]:
            self._lose(machine)

    def paid(self) -> float:
        """What all machines cost so far."""
        self._pay()
        return self._spent

    def _pay(self) -> None:
        now_s = self._time.now()
        self._spent += self.cost_per_hour * (now_s - self._paid_until_s) / 3600
        self._paid_until_s = now_s

    def _reconcile(self, placement: SimulatedPlacement) -> None:
        missing = self.targets[placement.name] - self.replicas(placement)
        for _ in range(missing):
            kind = placement.settings.machines
            machine = self._with_a_place(kind) or self._add(kind)
            if machine is None:
                return
            replica = self._hold(machine, placement)
            if machine.ready:
                self._load(machine, replica)
        for _ in range(-missing):
            self._drop_one(placement)

    def _drop_one(self, placement: SimulatedPlacement) -> None:
        """Ends a replica: one that still starts, or one of the machine with the fewest."""
        held = [
            (machine, replica)
            for machine in self.machines[placement.settings.machines]
            for replica, placed in machine.places.items()
            if placed is placement and not replica.draining
        ]
        machine, replica = min(held, key=lambda each: (each[1] in placement.running, len(each[0].places)))
        placement.stop(replica)
        if not replica.calls:
            self._release(machine, replica)

    def _with_a_place(self, kind: str) -> SimulatedMachine | None:
        most = self._classes[kind].replicas_each
        free = [machine for machine in self.machines[kind] if len(machine.places) < most]
        return max(free, key=lambda machine: (machine.ready, len(machine.places)), default=None)

    def _add(self, kind: str, *, ready: bool = False) -> SimulatedMachine | None:
        """Requests a machine in the open zone that has the fewest; None at the limit, or if all zones are closed."""
        settings, machines, now_s = self._classes[kind], self.machines[kind], self._time.now()
        zones = [zone for zone in range(settings.zones) if self._closed_until_s.get((kind, zone), -1.0) <= now_s]
        if len(machines) >= settings.most or not zones:
            return None
        zone = min(zones, key=lambda each: sum(machine.zone == each for machine in machines))
        machine = SimulatedMachine(kind, zone, unused_since_s=now_s)
        machines.append(machine)
        self.most[kind] = max(self.most[kind], len(machines))
        if ready:
            self._join(machine)
        else:
            start_s = settings.provision_s + settings.image_s + settings.join_s
            self._time.later(start_s, lambda: self._join(machine))
        return machine

    def _join(self, machine: SimulatedMachine) -> None:
        if machine.ended:
            return
        machine.ready = True
        for replica in list(machine.places):
            self._load(machine, replica)
        if rate := self._classes[machine.kind].lost_per_hour:
            self._time.later(self._random.expovariate(rate) * 3600, lambda: self._lose(machine))

    def _hold(self, machine: SimulatedMachine, placement: SimulatedPlacement) -> SimulatedReplica:
        replica = placement.new_replica()
        machine.places[replica] = placement
        return replica

    def _load(self, machine: SimulatedMachine, replica: SimulatedReplica) -> None:
        placement = machine.places[replica]

        def start() -> None:
            if not machine.ended and not replica.draining and replica in machine.places:
                placement.start(replica)

        self._time.later(placement.settings.load_s, start)

    def _release(self, machine: SimulatedMachine, replica: SimulatedReplica) -> None:
        del machine.places[replica]
        machine.unused_since_s = self._time.now()

    def _give_back(self, kind: str, settings: MachineClass) -> None:
        machines, now_s = self.machines[kind], self._time.now()
        for machine in list(machines):
            unused_s = now_s - machine.unused_since_s
            if not machine.places and unused_s >= settings.idle_s and len(machines) > settings.least:
                machine.ended = True
                machines.remove(machine)

    def _lose(self, machine: SimulatedMachine) -> None:
        if machine.ended:
            return
        self._pay()
        machine.ended = True
        self.machines[machine.kind].remove(machine)
        # All of its replicas are gone before any call looks for another one.
        for replica, placement in machine.places.items():
            placement.stop(replica)
        for replica in machine.places:
            replica.end()


class ScalingDelays:
    """What Ray Serve 2.60 does with the number of replicas that a policy wants: it waits until more, or fewer, were wanted
    without interruption for a time. Without replicas it starts some at once."""

    def __init__(self, up_s: float, down_s: float, zero_s: float) -> None:
        self._up_s = up_s
        self._down_s = down_s
        self._zero_s = zero_s
        self._direction = 0
        self._since_s = 0.0

    def decide(self, wanted: int, target: int, running: int, now_s: float) -> int:
        """The new target."""
        if running == 0 and wanted > 0:
            return max(wanted, target)
        direction = (wanted > target) - (wanted < target)
        if direction != self._direction:
            self._direction, self._since_s = direction, now_s
        if direction == 0:
            return target
        if direction < 0 and target > 1:
            wanted = max(1, wanted)
        delay_s = self._up_s if direction > 0 else self._zero_s if target == 1 else self._down_s
        if now_s - self._since_s < delay_s:
            return target
        self._direction = 0
        return wanted
