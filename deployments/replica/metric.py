"""How a metric is declared: once, for its export through Ray, docs/metrics.md, the dashboard, the alerts and `motet top`.

Ray is imported by who exports one: a command that reads the names starts a second earlier without it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from ray.serve import metrics

Unit = Literal["", "ms", "s", "s of audio", "bytes", "tokens/s"]
Start = Literal["zero", "first event", "measured"]

PREFIX = "ray_"
"""Ray exports every metric with it."""
COMMON_LABELS = (
    "deployment",
    "replica",
    "application",
    "NodeAddress",
    "SessionName",
    "Version",
    "WorkerId",
    "Component",
)
SCOPE_LABELS = ("otel_scope_name", "otel_scope_schema_url", "otel_scope_version")
"""Labels that Ray and Ray Serve add to each metric of a replica, and those that OpenTelemetry adds to all."""
NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `labels` are Motet's own; Ray adds `COMMON_LABELS`. `unit` is empty for plain numbers.

    `start` says when its first series is exported: with 0 before the first event, with the first event, or only by an engine
    that measures it.
    """

    kind: ClassVar[str]
    suffixes: ClassVar[Sequence[str]]

    name: str
    unit: Unit
    meaning: str
    labels: tuple[str, ...] = ("model",)
    start: Start = "zero"

    @property
    def description(self) -> str:
        """The text beside the exported metric."""
        return f"{self.meaning} Unit: {self.unit}." if self.unit else self.meaning

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which Prometheus has it."""
        return tuple(f"{PREFIX}{self.name}{suffix}" for suffix in self.suffixes)

    @property
    def _tag_keys(self) -> Any:  # Ray annotates `tag_keys` as a tuple of one name
        return self.labels


@dataclass(frozen=True, slots=True)
class Counter(Metric):
    """A sum that only grows."""

    kind = "counter"
    suffixes = ("_total",)

    def export(self, **fixed: str) -> metrics.Counter:
        """Ray's counter. `fixed` are labels that are the same for all events."""
        from ray.serve import metrics

        counter = metrics.Counter(self.name, self.description, self._tag_keys)
        counter.set_default_tags(fixed)
        return counter


@dataclass(frozen=True, slots=True)
class Gauge(Metric):
    """A value that is set."""

    kind = "gauge"
    suffixes = ("",)

    def export(self, **fixed: str) -> ExportedGauge:
        """Ray's gauge, of which the values stay."""
        from ray.serve import metrics

        gauge = metrics.Gauge(self.name, self.description, self._tag_keys)
        gauge.set_default_tags(fixed)
        return ExportedGauge(gauge)


@dataclass(frozen=True, slots=True)
class Histogram(Metric):
    """Counts of values by size. `bounds` are the upper bounds of its buckets. Ray does not export an empty one."""

    kind = "histogram"
    suffixes = ("_bucket", "_count", "_sum")

    start: Start = "first event"
    bounds: tuple[float, ...] = ()

    def export(self, **fixed: str) -> metrics.Histogram:
        """Ray's histogram."""
        from ray.serve import metrics

        histogram = metrics.Histogram(self.name, self.description, list(self.bounds), self._tag_keys)
        histogram.set_default_tags(fixed)
        return histogram


class ExportedGauge:
    """A gauge of Ray that keeps its values: Ray drops one that was not set in the last 20 s, and a queue that does not change
    would be missing."""

    def __init__(self, gauge: metrics.Gauge) -> None:
        self._gauge = gauge
        self._values: dict[tuple[tuple[str, str], ...], float] = {}
        self._lock = threading.Lock()
        _EXPORTED.append(self)

    def set(self, value: float, labels: Mapping[str, str] = NO_LABELS) -> None:
        """Sets the value of one series. May be called from any thread."""
        with self._lock:
            self._values[tuple(labels.items())] = value
            self._gauge.set(value, dict(labels))

    def set_again(self) -> None:
        """Sets every value that was set before."""
        with self._lock:
            for labels, value in self._values.items():
                self._gauge.set(value, dict(labels))


_EXPORTED: list[ExportedGauge] = []
"""All gauges of this process."""


def keep_gauges() -> None:
    """Sets all gauges of this process again. To be called every few seconds, as health checks are."""
    for gauge in _EXPORTED:
        gauge.set_again()


def start_at_zero(counter: metrics.Counter, **tags: str) -> None:
    """Exports a counter before its first event: a series that is not there is neither 0 nor an alert."""
    counter._record(0, tags or None)  # `inc` of Ray 2.60 refuses 0


def declared(names: Iterable[object]) -> list[Metric]:
    """The metrics among the values of a module, in the order of the file."""
    return [value for value in names if isinstance(value, Metric)]
