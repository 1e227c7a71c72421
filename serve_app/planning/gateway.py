"""A simulated gateway replica: the service's own admission and order of placements, and a model of its core and the network.

The core does one thing at a time: requests, refusals and chunks each take a time. Everything else between a client and a step
is one constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cluster.placement_state import PlacementState, in_order, in_turn, is_skipped
from cluster.planning.clock import DueCall, SimulatedTime
from cluster.planning.placement import SimulatedPlacement
from cluster.planning.replica import EngineCall
from serve_app.gateway.routing.admission import Admission
from serve_app.planning.settings import GatewaySettings, ServiceRules

Placed = Mapping[str, Sequence[SimulatedPlacement]]


class SimulatedGateway:
    """One gateway replica, with its own view of the placements."""

    def __init__(self, time: SimulatedTime, settings: GatewaySettings, rules: ServiceRules, placed: Placed) -> None:
        self.time = time
        self.settings = settings
        self.rules = rules
        self.admission = Admission(rules.admission.among(settings.replicas), time.now)
        self._placements = {each.name: each for found in placed.values() for each in found}
        self._states = {model: [self._state(each) for each in found] for model, found in placed.items()}
        self._busy_until_s = 0.0

    def _state(self, placement: SimulatedPlacement) -> PlacementState:
        scaling = placement.settings.autoscaling
        elastic, cost = (scaling.min_replicas == 0, scaling.cost) if scaling else (False, 0.0)
        return PlacementState(
            placement.model, placement.settings.machines, elastic=elastic, cost=cost, clock=self.time.now
        )

    def work(self, milliseconds: float) -> float:
        """Occupies the core; returns in how many seconds that is done."""
        now_s = self.time.now()
        self._busy_until_s = max(now_s, self._busy_until_s) + milliseconds / 1000
        return self._busy_until_s - now_s

    def placement(self, name: str) -> SimulatedPlacement:
        """A placement by name."""
        return self._placements[name]

    def grows(self, model: str) -> bool:
        """Whether the number of a model's replicas follows what waits."""
        return any(self.placement(state.name).settings.autoscaling for state in self._states[model])

    def states(self, model: str) -> Sequence[PlacementState]:
        """The placements of a model as this gateway sees them now."""
        states = self._states[model]
        for state in states:
            runs = bool(self._placements[state.name].running)
            if state.alive and not runs and state.elastic:
                state.suspect()
            elif not state.alive and runs:
                state.recover()
        return states

    def names_in_order(self, model: str) -> list[str]:
        """The placements of a model, the best first."""
        return [state.name for state in in_order(self.states(model))]


class PlacedCall:
    """One call on its way to a placement: the first one that answers, as `ModelDirectory.stream` decides it.

    `on_failed` is called if no placement answers, or the replica is lost after its first answer. A call of a request that has
    `begun`, so that its client has a part of the answer, waits for a restart however long that takes.
    """

    def __init__(
        self,
        gateway: SimulatedGateway,
        model: str,
        call: EngineCall,
        on_failed: Callable[[], None],
        preferred: str | None = None,
        learns: bool = True,
        begun: bool = False,
    ) -> None:
        self.placement = ""
        self._gateway = gateway
        self._call = call
        self._on_failed = on_failed
        self._learns = learns
        self._begun = begun
        self._model = model
        self._turns = in_turn(gateway.states(model), preferred)
        self._state: PlacementState | None = None
        self._patience: DueCall | None = None
        self._asked_s = 0.0
        self._place = 0
        call.on_lost = self._lost

    def send(self) -> None:
        """Sends the call to the next placement in turn."""
        states = self._gateway.states(self._model)
        for state, last in self._turns:
            if is_skipped(state, states):
                continue
            placement = self._gateway.placement(state.name)
            self._state, self._place, self._asked_s = state, state.under_way + 1, self._gateway.time.now()
            state.under_way += 1
            if placement.send(self._call):
                if self._call.replica is None:
                    self._wait_for_a_replica(state, last)
                return
            state.under_way -= 1
        self._state = None
        self._on_failed()

    def answered(self) -> None:
        """The first answer came."""
        assert self._state is not None
        self.placement = self._state.name
        if self._learns:
            self._state.note_answer(self._asked_s, self._place)

    def ended(self) -> None:
        """The last answer came."""
        if self._patience is not None:
            self._patience.cancel()
        if self._state is not None:
            self._state.under_way -= 1
            self._state = None

    def _wait_for_a_replica(self, state: PlacementState, last: bool) -> None:
        rules = self._gateway.rules.spillover
        patience_s = rules.wake_s if state.sleeps else rules.silent_s + rules.life_sign_s
        self._patience = self._gateway.time.later(patience_s, lambda: self._run_out(last))

    def _run_out(self, last: bool) -> None:
        """The placement did not answer: another one is tried, if there is one."""
        state, call = self._state, self._call
        if state is None or call.replica is not None:
            return
        if self._gateway.placement(state.name).running:
            self._wait_for_a_replica(state, last)
            return
        if state.alive:
            state.suspect()
        if not last:
            self._leave(state)
            self.send()
        elif not state.elastic and not self._begun:
            left_s = self._asked_s + self._gateway.rules.spillover.restart_wait_s - self._gateway.time.now()
            self._patience = self._gateway.time.later(max(0.0, left_s), self._give_up)

    def _give_up(self) -> None:
        """No replica came within `restart_wait_s`: the service answers 503 (`model_restarting`)."""
        state = self._state
        if state is None or self._call.replica is not None:
            return
        if self._gateway.placement(state.name).running:
            self._wait_for_a_replica(state, last=True)
            return
        self._leave(state)
        self._on_failed()

    def _leave(self, state: PlacementState) -> None:
        self._gateway.placement(state.name).queue.remove(self._call)
        self.ended()

    def _lost(self) -> None:
        """The replica ended. A call without an answer goes to the other placements."""
        if self._state is not None:
            self._state.suspect()
        begun = self._call.begun
        self.ended()
        self._call.replica = None
        if begun:
            self._on_failed()
        else:
            self.send()
