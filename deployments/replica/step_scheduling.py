"""Which candidates take part in the next step: earliest deadline first, and those that fit into the same batch.

A deadline is the moment at which a client's audio runs out. A new stream has no audio yet. Its deadline is the moment of its
arrival, so it goes before all streams that are ahead of their playback and after those that have run out already.

An engine that bounds its own step gets all candidates that fit, the most urgent first: those it has no time for cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from deployments.replica.call_trace import CallTrace
from deployments.settings import StepSettings

Item = TypeVar("Item")

HEAD_START_S = 60.0
"""Head start of the first window of a recording over a late one of another; the second has half of it, and so on."""
LIVE_HEAD_START_S = 70.0
"""Head start of a hearing of a live stream: it goes before windows of recordings that have waited for less than 10 s."""
LAST_HEAD_START_S = 75.0
"""That of its last hearing, for which somebody waits."""


@dataclass(frozen=True, slots=True)
class StepRequest:
    """What a caller requests of the next step.

    `deadline_s` is on the replica's monotonic clock. `cost` is the engine's own measure of the item's next step, such as
    characters or samples: the items of a batch are padded to the largest. `bounded` is set if the engine bounds its own step.
    Items of `live` streams and others do not share a step. `trace` is that of the call, if it is traced.
    """

    deadline_s: float
    cost: float = 1.0
    bounded: bool = False
    live: bool = False
    trace: CallTrace | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Candidate(Generic[Item]):
    """An item that waits for a step, compared by identity."""

    item: Item
    request: StepRequest


@dataclass(slots=True)
class ListenerDeadline:
    """When one client's audio runs out, on the replica's monotonic clock; before the first audio, when it counts as late."""

    deadline_s: float
    plays: bool = False

    def add(self, seconds: float, now_s: float) -> None:
        """Adds `seconds` of audio made at `now_s`. The client plays from the first audio on, and goes on after a gap."""
        if seconds > 0:
            self.deadline_s = (max(self.deadline_s, now_s) if self.plays else now_s) + seconds
            self.plays = True


def recording_deadline(index: int, now_s: float, late_s: float = 0.0) -> float:
    """The deadline of the `index`-th window or chunk of a recording that arrived at `now_s`. The first ones count as if they
    had waited for longer, so a new recording does not wait behind all windows of a book, and a book goes on. Those
    of jobs count as if they had arrived `late_s` later, and have no head start."""
    return now_s + late_s if late_s else now_s - HEAD_START_S / (1 + index)


def live_deadline(now_s: float, *, last: bool) -> float:
    """The deadline of a hearing of a live stream that was requested at `now_s`; the `last` one of a stream goes first."""
    return now_s - (LAST_HEAD_START_S if last else LIVE_HEAD_START_S)


def on_lanes(settings: StepSettings, lanes: int) -> StepSettings:
    """The settings for an engine that works on `lanes` items in parallel and ends its step when the first is done: items do
    not wait for each other, so any candidate may take a free lane."""
    free = {"max_padding_share": 1.0, "ahead_above_ms": math.inf, "backlog_cost": math.inf}
    return settings.model_copy(update={"max_batch_size": lanes, **free})


def padding_share(costs: Sequence[float]) -> float:
    """The share of a batch that is padding when every item is padded to the largest."""
    padded = max(costs, default=0.0) * len(costs)
    return 1.0 - sum(costs) / padded if padded else 0.0


def choose(
    waiting: Sequence[Candidate[Item]], settings: StepSettings, now_s: float, most_beside_live: int | None = None
) -> list[Candidate[Item]]:
    """The candidates of the next step, the most urgent first; at least one if any waits. A step of items that are not live
    has at most `most_beside_live`."""
    if not waiting:
        return []
    ordered = sorted(waiting, key=lambda candidate: candidate.request.deadline_s)
    is_live = ordered[0].request.live
    ordered = [candidate for candidate in ordered if candidate.request.live == is_live]
    most = settings.max_batch_size if is_live or most_beside_live is None else most_beside_live
    if _goes_alone(ordered, settings):
        return ordered[:1]
    chosen = ordered[:1]
    someone_is_urgent = _lasts_ms(ordered[0], now_s) < settings.urgent_below_ms
    for candidate in ordered[1:]:
        if len(chosen) >= min(most, settings.max_batch_size):
            break
        is_ahead = _lasts_ms(candidate, now_s) > settings.ahead_above_ms and not candidate.request.bounded
        if someone_is_urgent and is_ahead:
            break  # the rest is further ahead still
        if padding_share([c.request.cost for c in (*chosen, candidate)]) <= settings.max_padding_share:
            chosen.append(candidate)
    return chosen


def _goes_alone(ordered: Sequence[Candidate[Item]], settings: StepSettings) -> bool:
    """Whether the first item is short and the queue long: then it goes alone instead of being padded to its neighbours."""
    backlog = sum(candidate.request.cost for candidate in ordered)
    return backlog > settings.backlog_cost and ordered[0].request.cost <= settings.short_cost


def _lasts_ms(candidate: Candidate[Item], now_s: float) -> float:
    """How long the client's audio lasts from now, in ms."""
    return (candidate.request.deadline_s - now_s) * 1000
