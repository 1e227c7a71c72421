"""How many replicas a model needs on each hardware class, in the order of cost. Plain arithmetic, without Ray.

The audio that waits for a model is one demand, in seconds. The cheapest placement takes as much of it as its replicas can,
the next one takes the rest, and so on. When the demand falls, the most expensive replicas are the first without work.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from deployments.settings import Count, NonNegative, Positive, StrictModel

FORGET_S = 15.0
"""A placement without a report for this long no longer exists."""

MOST_LATENESS = 2.0
"""Late audio at most doubles the replicas at a time: it stays in the metrics for a while after it was corrected."""

KEPT_SHARE = 0.75
"""At most a quarter of a placement's replicas end at a time."""

METRICS_EVERY_S = 2.0
"""How often replicas and gateways report their load to Ray Serve."""


class AutoscalingSettings(StrictModel):
    """How many replicas a placement has when its load decides.

    The minimum is 0 by default: replicas start when cheaper placements have too much to do, or when a request comes and no
    other placement of its model has a replica.
    """

    min_replicas: Annotated[int, Field(ge=0)] = 0
    """The fewest replicas."""
    max_replicas: Count = 4
    """The most replicas."""
    target_queued_seconds_of_audio: Positive = 60.0
    """Queued audio for each replica. More of it starts another replica."""
    target_first_sound_ms: Positive = 500.0
    """When the 95th percentile of times to first audio exceeds this, replicas are added whatever the queue."""
    cost: NonNegative = 1.0
    """Order of the placements of a model: load goes to the cheapest first. The unit is free."""
    up_after_s: NonNegative = 5.0
    """How long more replicas must be needed before they start."""
    down_after_s: NonNegative = 120.0
    """How long fewer replicas must be enough before some end."""
    zero_after_s: NonNegative = 600.0
    """The same for the last replica."""
    look_back_s: Annotated[float, Field(gt=METRICS_EVERY_S, allow_inf_nan=False)] = 12.0
    """The load is the mean over this time."""
    stuck_after_s: Positive = 120.0
    """When requested replicas have not started after this time, their share of the load goes to the next placement."""

    @model_validator(mode="after")
    def _in_order(self) -> AutoscalingSettings:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas must be at most max_replicas")
        return self


@dataclass(frozen=True, slots=True)
class PlacementCapacity:
    """What one placement of a model can take.

    Placements are filled in the order of their `cost`. A replica should have at most `seconds_each` of audio in its queue.
    `stuck` means that requested replicas do not start, so only the `running` ones count.
    """

    name: str
    cost: float
    least: int
    most: int
    seconds_each: float
    running: int
    stuck: bool = False

    @property
    def reachable(self) -> int:
        """The number of replicas that can take a part of the demand."""
        return self.running if self.stuck else self.most


@dataclass(frozen=True, slots=True)
class ModelKey:
    """A model of one application: two applications of a cluster may have models of the same name."""

    application: str | None
    name: str


@dataclass(frozen=True, slots=True)
class PlacementLoad:
    """What waits at one placement: seconds of audio, and the time to first audio divided by its target (0: unknown)."""

    seconds: float
    lateness: float = 0.0


Placements = Mapping[str, tuple[PlacementCapacity, PlacementLoad]]


def replicas_wanted(placements: Placements) -> dict[str, int]:
    """The number of replicas of each placement of one model, within its limits."""
    capacities = sorted((capacity for capacity, _ in placements.values()), key=lambda each: (each.cost, each.name))
    left = demand(capacities, [load for _, load in placements.values()])
    wanted = {}
    for each in capacities:
        replicas = min(max(math.ceil(left / each.seconds_each), each.least), each.most)
        wanted[each.name] = replicas
        left = max(0.0, left - min(replicas, each.reachable) * each.seconds_each)
    return wanted


def demand(capacities: Sequence[PlacementCapacity], loads: Sequence[PlacementLoad]) -> float:
    """Seconds of audio that need a replica: those that wait, and more than all running replicas take if audio is late."""
    waiting = sum(load.seconds for load in loads)
    lateness = min(max((load.lateness for load in loads), default=0.0), MOST_LATENESS)
    if waiting > 0 and lateness > 1:
        return max(waiting, lateness * sum(each.running * each.seconds_each for each in capacities))
    return waiting


class DemandBoard:
    """The latest load of each placement. All policies run in one process, one after the other, and share it."""

    def __init__(self) -> None:
        self._reports: dict[ModelKey, dict[str, tuple[float, PlacementCapacity, PlacementLoad]]] = {}

    def report(self, model: ModelKey, capacity: PlacementCapacity, load: PlacementLoad, now_s: float) -> None:
        """Stores the state of one placement."""
        self._reports.setdefault(model, {})[capacity.name] = (now_s, capacity, load)

    def placements(self, model: ModelKey, now_s: float) -> dict[str, tuple[PlacementCapacity, PlacementLoad]]:
        """The placements of a model that reported within `FORGET_S`."""
        recent = {name: entry for name, entry in self._reports.get(model, {}).items() if now_s - entry[0] <= FORGET_S}
        self._reports[model] = recent
        return {name: (capacity, load) for name, (_, capacity, load) in recent.items()}


BOARD = DemandBoard()
"""Ray Serve's controller creates one policy for each deployment and shares nothing between them but imported modules."""


class PlacementScaling:
    """How many replicas one placement of a model needs, from call to call."""

    def __init__(self, settings: AutoscalingSettings, board: DemandBoard) -> None:
        self._settings = settings
        self._board = board
        self._short_since_s: float | None = None

    def load(self, queued_seconds: Iterable[float], first_sounds_s: Iterable[float], waiting: float) -> PlacementLoad:
        """The load of the placement: what each replica reports, and `waiting` seconds of audio that no replica has seen."""
        late_s = max(first_sounds_s, default=0.0)
        return PlacementLoad(sum(queued_seconds) + waiting, late_s * 1000 / self._settings.target_first_sound_ms)

    def wanted(self, model: ModelKey, name: str, running: int, target: int, load: PlacementLoad, now_s: float) -> int:
        """The replicas needed now of the placement `name`, which has `running` of `target` ones.

        They are at least `KEPT_SHARE` of the target. A queue is short just because all replicas run, so a short queue does
        not show how many of them could end; after some have ended, and Ray Serve's delay, it does.
        """
        self._board.report(model, self._capacity(name, running, target, now_s), load, now_s)
        wanted = replicas_wanted(self._board.placements(model, now_s))[name]
        return max(wanted, math.floor(target * KEPT_SHARE))

    def _capacity(self, name: str, running: int, target: int, now_s: float) -> PlacementCapacity:
        settings = self._settings
        if running >= target:
            self._short_since_s = None
        elif self._short_since_s is None:
            self._short_since_s = now_s
        stuck = self._short_since_s is not None and now_s - self._short_since_s >= settings.stuck_after_s
        return PlacementCapacity(
            name=name,
            cost=settings.cost,
            least=settings.min_replicas,
            most=settings.max_replicas,
            seconds_each=settings.target_queued_seconds_of_audio,
            running=running,
            stuck=stuck,
        )
