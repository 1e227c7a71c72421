"""Who goes into the next step: the one whose listener runs dry first, and whoever fits beside it.

Earliest deadline first: a deadline is the moment a listener's sound runs out. A new stream has none that could run out; it
counts as urgent from the moment it came, so it outranks every stream that is ahead of its playback and comes after those
that were about to run dry.

An engine that bounds its own step gets everyone who fits, the most urgent first: whom it has no time for costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from deployments.settings import StepSettings

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class StepRequest:
    """What a caller wants of the next step.

    `deadline_s` is on the replica's clock; `cost` is the engine's own measure of the item's next step, such as characters
    or samples: items of one batch are padded to the largest. `bounded` says that the engine bounds its own step.
    """

    deadline_s: float
    cost: float = 1.0
    bounded: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Candidate(Generic[Item]):
    """An item that waits for a step."""

    item: Item
    wish: StepRequest


@dataclass(slots=True)
class Playback:
    """What one listener has: the moment at which the sound so far will have been played, on the replica's clock. Before the
    first sound it is the moment at which that counts as late."""

    dry_s: float
    plays: bool = False

    def heard(self, seconds: float, now_s: float) -> None:
        """More sound came. A player begins with the first, and one that has run dry goes on with the next."""
        if seconds > 0:
            self.dry_s = (max(self.dry_s, now_s) if self.plays else now_s) + seconds
            self.plays = True


def on_lanes(settings: StepSettings, lanes: int) -> StepSettings:
    """The settings for an engine that works on `lanes` items side by side and ends its step with the first: an item costs
    its neighbours nothing, so whoever waits fills a lane that is free."""
    free = {"max_padding_share": 1.0, "ahead_above_ms": math.inf, "backlog_cost": math.inf}
    return settings.model_copy(update={"max_batch_size": lanes, **free})


def padding_share(costs: Sequence[float]) -> float:
    """The share of a batch that is padding when every item is padded to the largest."""
    padded = max(costs, default=0.0) * len(costs)
    return 1.0 - sum(costs) / padded if padded else 0.0


def choose(waiting: Sequence[Candidate[Item]], settings: StepSettings, now_s: float) -> list[Candidate[Item]]:
    """The candidates of the next step, at least one if any waits, the most urgent first."""
    if not waiting:
        return []
    ordered = sorted(waiting, key=lambda candidate: candidate.wish.deadline_s)
    if _goes_alone(ordered, settings):
        return ordered[:1]
    chosen = ordered[:1]
    someone_is_urgent = _lasts_ms(ordered[0], now_s) < settings.urgent_below_ms
    for candidate in ordered[1:]:
        if len(chosen) == settings.max_batch_size:
            break
        is_ahead = _lasts_ms(candidate, now_s) > settings.ahead_above_ms and not candidate.wish.bounded
        if someone_is_urgent and is_ahead:
            break  # everyone behind this one is further ahead still
        if padding_share([c.wish.cost for c in (*chosen, candidate)]) <= settings.max_padding_share:
            chosen.append(candidate)
    return chosen


def _goes_alone(ordered: Sequence[Candidate[Item]], settings: StepSettings) -> bool:
    """A short item at the head of a long queue is done at once instead of being padded to its neighbours."""
    backlog = sum(candidate.wish.cost for candidate in ordered)
    return backlog > settings.backlog_cost and ordered[0].wish.cost <= settings.short_cost


def _lasts_ms(candidate: Candidate[Item], now_s: float) -> float:
    """How long the listener's sound lasts from now."""
    return (candidate.wish.deadline_s - now_s) * 1000
