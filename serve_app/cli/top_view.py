"""What `motet top` shows, computed from the answers of a service and those before them. Nothing here knows a terminal."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app.cli.service_api import ServiceApi
from serve_app.cli.top_metrics import MachineMetrics, read_metrics

MOST_JOBS = 100
"""Jobs that are counted, the newest first."""


@dataclass(frozen=True, slots=True)
class PlacementView:
    """A model on a hardware class. What is not known is None.

    `mean_batch` and `busy_share` are of the time since the answers before, and `mean_batch` of the first answers since the
    replica's start. First results are the first sound of speech, and the first text or stem of the others.
    """

    name: str
    model: str
    task: str
    state: str
    cause: str | None = None
    replicas: int | None = None
    open_requests: int = 0
    queued_seconds: float = 0.0
    wait_s: float = 0.0
    speed: float | None = None
    mean_batch: float | None = None
    largest_batch: int | None = None
    most_batch: int = 1
    busy_share: float | None = None
    first_p50_ms: float | None = None
    first_p95_ms: float | None = None
    memory_bytes: float | None = None
    cpu_percent: float | None = None
    refused: int = 0
    failed: int | None = None


@dataclass(frozen=True, slots=True)
class ServiceView:
    """The whole service at a moment. Buffers are the seconds of sound that clients have ahead of playback."""

    status: str
    placements: Sequence[PlacementView]
    streams: int
    least_buffered_s: float | None
    median_buffered_s: float | None
    alarm_ms: float
    jobs: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    metrics: bool = False
    """Whether the metrics of the machine were there: without them replicas, CPU and failures are unknown."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a service answered at a moment of a monotonic clock."""

    at_s: float
    status: Mapping[str, Any]
    jobs: Sequence[Mapping[str, Any]]
    metrics: MachineMetrics | None


def answers_of(service: ServiceApi, metrics: str, at_s: float) -> Answers:
    """Asks a service, and for its metrics at an address. Raises `MotetError` if it does not answer or refuses."""
    status = service.ask("GET", "/v1/status")
    jobs = service.ask("GET", f"/v1/jobs?limit={MOST_JOBS}")
    with service.understood():
        return Answers(at_s, status, list(jobs["data"]), read_metrics(metrics))


def view_of(now: Answers, before: Answers | None = None) -> ServiceView:
    """The view of answers. Raises `LookupError`, `TypeError` or `ValueError` for those of another program."""
    earlier = {each["name"]: each for each in before.status["placements"]} if before else {}
    passed_s = now.at_s - before.at_s if before else 0.0
    placements = [_placement(facts, earlier.get(facts["name"]), passed_s, now) for facts in now.status["placements"]]
    buffered = [float(stream["buffered_seconds"]) for stream in now.status["streams"]]
    return ServiceView(
        status=str(now.status["status"]),
        placements=placements,
        streams=len(buffered),
        least_buffered_s=min(buffered, default=None),
        median_buffered_s=statistics.median(buffered) if buffered else None,
        alarm_ms=float(now.status["first_sound_alarm_ms"]),
        jobs=dict(Counter(str(job["status"]) for job in now.jobs)),
        failures=dict(now.metrics.failures) if now.metrics else {},
        metrics=now.metrics is not None,
    )


def _placement(
    facts: Mapping[str, Any], earlier: Mapping[str, Any] | None, passed_s: float, now: Answers
) -> PlacementView:
    name, model, metrics = str(facts["name"]), str(facts["model"]), now.metrics
    queue, steps = facts.get("queue", {}), facts.get("steps")
    waits = sorted(each["milliseconds"] for each in now.status["first_results"] if each["placement"] == name)
    memory = metrics.memory_bytes.get(name) if metrics else None
    return PlacementView(
        name=name,
        model=model,
        task=str(facts["task"]),
        state=str(facts["state"]),
        cause=facts.get("cause"),
        replicas=metrics.replicas[name] if metrics else None,
        open_requests=int(queue.get("open", 0)),
        queued_seconds=float(queue.get("queued_seconds", 0.0)),
        wait_s=float(queue.get("wait_s", 0.0)),
        speed=queue.get("speed"),
        mean_batch=_mean_batch(steps, earlier and earlier.get("steps")),
        largest_batch=steps["largest"] if steps else None,
        most_batch=int(facts["max_batch_size"]),
        busy_share=_busy_share(steps, earlier and earlier.get("steps"), passed_s),
        first_p50_ms=_quantile(waits, 0.5),
        first_p95_ms=_quantile(waits, 0.95),
        memory_bytes=memory if memory is not None else facts.get("memory_bytes"),
        cpu_percent=metrics.cpu_percent.get(name) if metrics else None,
        refused=max(int(queue.get("refused", 0)), metrics.refused[model] if metrics else 0),
        failed=metrics.failed[model] if metrics else None,
    )


def _mean_batch(steps: Mapping[str, Any] | None, earlier: Mapping[str, Any] | None) -> float | None:
    if steps is None:
        return None
    count, items = steps["steps"], steps["items"]
    if earlier is not None and count >= earlier["steps"]:  # fewer steps: another replica answers
        count, items = count - earlier["steps"], items - earlier["items"]
    return float(items) / count if count else None


def _busy_share(steps: Mapping[str, Any] | None, earlier: Mapping[str, Any] | None, passed_s: float) -> float | None:
    if steps is None or earlier is None or passed_s <= 0 or steps["steps"] < earlier["steps"]:
        return None
    return float(min(1.0, (steps["seconds"] - earlier["seconds"]) / passed_s))


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    """The value at a share of ordered values, without interpolation: a wait that somebody had."""
    return float(ordered[min(len(ordered) - 1, int(share * len(ordered)))]) if ordered else None
