"""How many replicas a model needs on each hardware class, in the order of what they cost. Plain arithmetic, without Ray.

All that waits for a model is one demand, in seconds of audio. The cheapest class takes as much of it as its replicas may
hold, the next one what is left, and so on; when the demand falls, the dearest replicas are the first without work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deployments.settings import StrictModel

FORGET_S = 15.0
"""A placement that says nothing for so long is no longer there."""

MOST_LATENESS = 2.0
"""However late first sounds are, replicas are at most doubled at a time: late ones are told of for a while."""


class AutoscalingSettings(StrictModel):
    """How many replicas one placement may have, and what decides it.

    A replica is meant to have `target_queued_seconds_of_audio` to make. When the 95th percentile of waits for a first sound
    is over `target_first_sound_ms`, there are too few replicas whatever the queue. Placements are filled in the order of
    their `cost`. A change is made when it was wanted for `up_after_s`, `down_after_s`, or, for the last replica,
    `zero_after_s`; loads are means over `look_back_s`. Replicas that were wanted and are not there after
    `stuck_after_s` are not counted on: their share goes to the next class.
    """

    min_replicas: int
    max_replicas: int
    target_queued_seconds_of_audio: float
    target_first_sound_ms: float
    cost: float
    up_after_s: float
    down_after_s: float
    zero_after_s: float
    look_back_s: float
    stuck_after_s: float


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
