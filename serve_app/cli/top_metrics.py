"""What `motet top` takes from the Prometheus metrics of one machine: replicas, their CPU and memory, and counts of
requests."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import httpx

from serve_app.cli.processes import REPLICA
from serve_app.gateway.metric_table import FAILURES, REQUESTS
from serve_app.profiles import ALL_METRICS_OFFSET

METRICS_S = 3.0
"""How long the metrics may take. They are collected anew for each request."""
HEALTHY = "ray_serve_deployment_replica_healthy"
CPU_PERCENT, MEMORY_BYTES = "ray_component_cpu_percentage", "ray_component_rss_bytes"
"""Metrics of Ray Serve and of Ray; the other ones are Motet's own."""
REFUSED = "429"
FAILED_FROM = 500
OF_REPLICA = re.compile(rf"{REPLICA.removesuffix(':')}(?:\+[^:]*)?:(.*)")
"""The name of each replica's process: its application and its deployment. Loaded models have applications of their own."""


@dataclass(frozen=True, slots=True)
class MetricSample:
    """One line of the metrics: a name, labels and a value."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(slots=True)
class MachineMetrics:
    """Totals by deployment or by model. CPU is in percent of one core, memory in bytes."""

    replicas: Counter[str] = field(default_factory=Counter)
    cpu_percent: dict[str, float] = field(default_factory=dict)
    memory_bytes: dict[str, float] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    """By kind of failure."""


def metrics_url(service: str) -> str:
    """Where `motet serve` on one machine shows its metrics, from the service's address."""
    address = httpx.URL(service)
    port = address.port or (443 if address.scheme == "https" else 80)
    return str(address.copy_with(scheme="http", port=port + ALL_METRICS_OFFSET, path="/metrics", query=None))


def read_metrics(url: str, transport: httpx.BaseTransport | None = None) -> MachineMetrics | None:
    """The metrics at an address; None if nothing answers there."""
    try:
        with httpx.Client(timeout=METRICS_S, transport=transport, trust_env=False) as client:
            answer = client.get(url)
            answer.raise_for_status()
            return summed(samples_of(answer.text))
    except (httpx.HTTPError, ValueError):
        return None


def samples_of(text: str) -> Iterator[MetricSample]:
    """The samples of Prometheus' text format. Raises `ValueError` for another one."""
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield MetricSample(sample.name, sample.labels, float(sample.value))


def summed(samples: Iterator[MetricSample]) -> MachineMetrics:
    """The totals of samples."""
    found = MachineMetrics()
    for sample in samples:
        labels, value = sample.labels, sample.value
        if sample.name == HEALTHY and value:
            found.replicas[labels.get("deployment", "")] += 1
        elif sample.name == CPU_PERCENT:
            _add(found.cpu_percent, labels, value)
        elif sample.name == MEMORY_BYTES:
            _add(found.memory_bytes, labels, value)
        elif sample.name in REQUESTS.series:
            _count(found, labels, int(value))
        elif sample.name in FAILURES.series and value:
            found.failures[labels.get("kind", "")] += int(value)
    return found


def _add(totals: dict[str, float], labels: Mapping[str, str], value: float) -> None:
    if replica := OF_REPLICA.search(labels.get("Component", "")):
        deployment = replica[1]
        totals[deployment] = totals.get(deployment, 0.0) + value


def _count(found: MachineMetrics, labels: Mapping[str, str], value: int) -> None:
    model, status = labels.get("model", ""), labels.get("status", "")
    found.requests[model] += value
    if status == REFUSED:
        found.refused[model] += value
    elif status.isdigit() and FAILED_FROM <= int(status) < 2 * FAILED_FROM:  # above are the codes of WebSockets
        found.failed[model] += value
