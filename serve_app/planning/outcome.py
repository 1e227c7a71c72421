"""What a simulation counts, in bounded memory: histograms of waits, and one point of each curve for an interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_app.planning.bulk_share import BulkNeeds
from serve_app.planning.requests import SpeechOutcome
from serve_app.planning.settings import Promise

LEAST_S = 0.001
STEP = 1.01
"""Waits are counted in bins, each one percent longer than the one before."""
BINS = 1800


class WaitHistogram:
    """Waits from a millisecond to 16 hours, each within one percent."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self.count = 0

    def add(self, wait_s: float) -> None:
        """Counts a wait."""
        position = int(math.log(wait_s / LEAST_S) / math.log(STEP)) if wait_s > LEAST_S else 0
        self._bins[min(position, BINS - 1)] += 1
        self.count += 1

    def merge(self, other: WaitHistogram) -> None:
        """Counts all waits of another one."""
        self._bins += other._bins
        self.count += other.count

    def quantile_ms(self, share: float) -> float | None:
        """The wait in ms that a share of all waits do not exceed; None without any."""
        left = math.ceil(share * self.count)
        for position in sorted(self._bins):
            left -= self._bins[position]
            if left <= 0:
                return LEAST_S * math.pow(STEP, position + 0.5) * 1000
        return None


@dataclass(slots=True)
class TrafficCounts:
    """What became of one part of the traffic. `good` requests were heard without a gap; `attempts` count retries."""

    asked: int = 0
    attempts: int = 0
    complete: int = 0
    good: int = 0
    refused: int = 0
    failed: int = 0
    underruns: int = 0
    audio_seconds: float = 0.0
    first: WaitHistogram = field(default_factory=WaitHistogram)

    def add(self, outcome: SpeechOutcome) -> None:
        """Counts the outcome of an attempt."""
        self.attempts += 1
        self.complete += outcome.status == "complete"
        self.good += outcome.status == "complete" and outcome.underruns == 0
        self.refused += outcome.status == "refused"
        self.failed += outcome.status == "failed"
        self.underruns += outcome.underruns
        self.audio_seconds += outcome.audio_seconds
        if outcome.first_s is not None:
            self.first.add(outcome.first_s)

    @property
    def refused_percent(self) -> float:
        """The share of attempts that were refused, in percent."""
        return 100 * self.refused / self.attempts if self.attempts else 0.0

    @property
    def gaps_percent(self) -> float:
        """The share of admitted streams that had a gap or failed, in percent."""
        ended = self.complete + self.failed
        return 100 * (1 - self.good / ended) if ended else 0.0


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The state at the end of an interval, for the whole fleet. `first_p95_ms` and the counts are of the interval.
    The last interval of a plan may be shorter than the others."""

    at_s: float
    open_streams: int
    queued_seconds: float
    replicas: Mapping[str, int]
    machines: Mapping[str, int]
    asked: int
    refused: int
    first_p95_ms: float | None
    cost_per_hour: float


@dataclass(frozen=True, slots=True)
class PlanResult:
    """The result of a plan for the whole fleet. Money is in the unit of the prices."""

    traffic: Mapping[str, TrafficCounts]
    points: tuple[CurvePoint, ...]
    hours: float
    cost: float
    """What the service cost: its machines and gateways, without the bulk jobs."""
    counted_cost: float
    """The part of `cost` after the warm-up, in which `traffic` was counted."""
    bulk: Mapping[str, BulkNeeds]
    """What each bulk job needs beside the service."""
    unmeasured: tuple[str, ...]
    """Classes of machines whose engine figures were not measured."""
    most_machines: Mapping[str, int]
    """The most machines of each class at the same time, without those of bulk jobs."""
    busy_percent: Mapping[str, float]
    """How busy the engines of each placement were."""
    cells: int = 1

    @property
    def total(self) -> TrafficCounts:
        """All traffic together."""
        total = TrafficCounts()
        for each in self.traffic.values():
            for name in ("asked", "attempts", "complete", "good", "refused", "failed", "underruns", "audio_seconds"):
                setattr(total, name, getattr(total, name) + getattr(each, name))
            total.first.merge(each.first)
        return total

    def keeps(self, promise: Promise) -> bool:
        """Whether a promise was kept."""
        total = self.total
        first_ms = total.first.quantile_ms(0.95)
        in_time = first_ms is not None and first_ms <= promise.first_sound_p95_ms
        without_gaps = total.gaps_percent <= promise.gaps_percent
        return in_time and without_gaps and total.refused_percent <= promise.refused_percent

    @property
    def cost_per_hour(self) -> float:
        """The mean cost of an hour of the service, without bulk jobs."""
        return self.cost / self.hours

    @property
    def cost_per_hour_of_audio(self) -> float | None:
        """The cost of an hour of the service's audio, both counted after the warm-up; None if none was made."""
        seconds = self.total.audio_seconds * self.cells
        return self.counted_cost / (seconds / 3600) if seconds else None

    def most_replicas(self, placement: str) -> int:
        """The most replicas of a placement."""
        return max((point.replicas[placement] for point in self.points), default=0)

    def most_with_bulk(self, kind: str) -> int:
        """The most machines of a class if those of its bulk jobs are there at the same time."""
        return self.most_machines[kind] + sum(each.machines for each in self.bulk.values() if each.kind == kind)


@dataclass(frozen=True, slots=True)
class FoundFleet:
    """A fleet that keeps a promise: replicas by placement, machines by class, and what was simulated."""

    shape: str
    replicas: Mapping[str, int]
    machines: Mapping[str, int]
    cost_per_hour: float
    result: PlanResult
