"""How many replicas a model needs on each hardware class, in the order of what they cost. Plain arithmetic, without Ray.

All that waits for a model is one demand, in seconds of audio. The cheapest class takes as much of it as its replicas may
hold, the next one what is left, and so on; when the demand falls, the dearest replicas are the first without work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from deployments.settings import Count, NonNegative, Positive, StrictModel

FORGET_S = 15.0
"""A placement that says nothing for so long is no longer there."""

MOST_LATENESS = 2.0
"""However late first sounds are, replicas are at most doubled at a time: late ones are told of for a while."""


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
class Rung:
    """One placement of a model, as the ladder of classes sees it.

    `cost` orders the placements. A replica is meant to have `seconds_each` of audio in its queue. `stuck` says that replicas
    were asked for and do not come up, so no more than the `running` ones can be counted on.
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
        """As many replicas as demand may be left to."""
        return self.running if self.stuck else self.most


@dataclass(frozen=True, slots=True)
class ModelOf:
    """A model of one application: a cluster may run two applications that call a model the same."""

    application: str | None
    name: str


@dataclass(frozen=True, slots=True)
class Load:
    """What waits at one placement: seconds of audio, and how many times later than meant first sounds come (0: unknown)."""

    seconds: float
    lateness: float = 0.0


def replicas_wanted(placements: Mapping[str, tuple[Rung, Load]]) -> dict[str, int]:
    """Replicas for every placement of one model, by name, within each one's bounds."""
    left = demand([rung for rung, _ in placements.values()], [load for _, load in placements.values()])
    wanted = {}
    for rung in sorted((rung for rung, _ in placements.values()), key=lambda rung: (rung.cost, rung.name)):
        replicas = min(max(math.ceil(left / rung.seconds_each), rung.least), rung.most)
        wanted[rung.name] = replicas
        left = max(0.0, left - min(replicas, rung.reachable) * rung.seconds_each)
    return wanted


def demand(rungs: Sequence[Rung], loads: Sequence[Load]) -> float:
    """Seconds of audio to find room for: what waits, and more than all running replicas hold when first sounds are late."""
    waiting = sum(load.seconds for load in loads)
    lateness = min(max((load.lateness for load in loads), default=0.0), MOST_LATENESS)
    if waiting > 0 and lateness > 1:
        return max(waiting, lateness * sum(rung.running * rung.seconds_each for rung in rungs))
    return waiting


class DemandBoard:
    """Where the policies of all placements tell each other what waits. They run in one process, one after the other."""

    def __init__(self) -> None:
        self._told: dict[ModelOf, dict[str, tuple[float, Rung, Load]]] = {}

    def tell(self, model: ModelOf, rung: Rung, load: Load, now_s: float) -> None:
        """One placement's state."""
        self._told.setdefault(model, {})[rung.name] = (now_s, rung, load)

    def placements(self, model: ModelOf, now_s: float) -> dict[str, tuple[Rung, Load]]:
        """Every placement of a model that told its state lately."""
        told = {name: entry for name, entry in self._told.get(model, {}).items() if now_s - entry[0] <= FORGET_S}
        self._told[model] = told
        return {name: (rung, load) for name, (_, rung, load) in told.items()}


BOARD = DemandBoard()
"""Ray Serve's controller makes a policy for each deployment and gives them nothing in common, so they meet here."""
