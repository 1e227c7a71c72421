"""All metrics of Motet, and those of Ray that the dashboard and the alerts use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from deployments.replica.metric import Gauge, Metric
from deployments.replica.metric_table import REPLICA_METRICS
from serve_app.gateway.metric_table import GATEWAY_METRICS

MACHINE = ("ip",)
"""The label that tells machines apart."""
CPU_PERCENT = Gauge("node_cpu_utilization", "", "CPU use of a machine, in percent of all its cores.", MACHINE)
MEMORY_USED = Gauge("node_mem_used", "bytes", "Memory of a machine that is in use.", MACHINE)
MEMORY_TOTAL = Gauge("node_mem_total", "bytes", "Memory of a machine.", MACHINE)

RAY_METRICS: Sequence[Metric] = (CPU_PERCENT, MEMORY_USED, MEMORY_TOTAL)

METRICS: Mapping[str, Sequence[Metric]] = MappingProxyType(
    {"gateway": GATEWAY_METRICS, "replica": REPLICA_METRICS, "machine": RAY_METRICS}
)
"""By the process that exports them."""
