"""docs/metrics.md: every metric and every alert, from their declarations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deployments.replica.metric import COMMON_LABELS, PREFIX, SCOPE_LABELS, Metric, Start
from serve_app.cli.schema_tables import table
from serve_app.monitoring.alerts import ALERTS
from serve_app.monitoring.metrics import METRICS

INTRODUCTION = f"""\
# Metrics

`motet metrics --markdown > docs/metrics.md` made this page from the declarations in the code; a test holds it current, and
another compares it with a scrape of a running service. `motet metrics` prints the names in a terminal.

Each machine has all metrics at one address, `http://<machine>:8080/metrics`
([launch.md](launch.md#monitoring)): Ray's, Ray Serve's and Motet's. Prometheus has a counter `motet_x` as
`{PREFIX}motet_x_total`, a gauge as `{PREFIX}motet_x`, and a histogram as `{PREFIX}motet_x_bucket`, `_sum` and `_count`.

Every metric has labels of Ray and Ray Serve beside its own:
{", ".join(f"`{label}`" for label in COMMON_LABELS)}
(and OpenTelemetry's {", ".join(f"`{label}`" for label in SCOPE_LABELS)}). `deployment` names the model and its
hardware class, such as `hibari@cpu`.

| exported | means |
|---|---|
| from 0 | with the value 0 before the first event |
| with the first event | Ray cannot export an empty histogram |
| where measured | only by an engine that measures it |

Ray passes on the counts of a histogram's buckets, and computes `_sum` from the middle of each bucket. Means are therefore
approximate; quantiles are as exact as the buckets.
"""
HEADINGS: Mapping[str, tuple[str, str]] = {
    "gateway": ("The gateway", "One set for each gateway replica."),
    "replica": ("Replicas of models", "One set for each replica of a model; those of streams from speech models only."),
    "machine": (
        "Machines",
        "Of Ray, with other labels, one set for each machine: what the dashboard and the alerts use.",
    ),
}
EXPORTED: Mapping[Start, str] = {"zero": "from 0", "first event": "with the first event", "measured": "where measured"}
ALERTS_INTRODUCTION = """\
`motet metrics --alerts` prints these rules, `cluster/launch/alerts.yaml`, which `cluster/launch/prometheus.yaml` loads. Rates
are of the last five minutes. The limits suit a service with listeners; change them for yours.
`motet metrics --dashboard` prints the Grafana dashboard, `cluster/launch/grafana.json`, with all metrics of this page.
"""


def markdown() -> str:
    """The text of `docs/metrics.md`."""
    lines = [INTRODUCTION]
    for process, metrics in METRICS.items():
        title, meaning = HEADINGS[process]
        lines += [f"## {title}", "", meaning, ""]
        lines += table(("metric", "type", "labels", "unit", "exported", "meaning"), map(_row, metrics))
    lines += ["## Alerts", "", ALERTS_INTRODUCTION, *_alerts()]
    return "\n".join(lines).rstrip() + "\n"


def plain() -> str:
    """A line for each metric."""
    every = [metric for metrics in METRICS.values() for metric in metrics]
    width = max(len(metric.name) for metric in every)
    return "".join(f"{metric.name:{width}}  {metric.kind:9}  {metric.description}\n" for metric in every)


def _row(metric: Metric) -> list[str]:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return [f"`{metric.name}`", metric.kind, labels, metric.unit, EXPORTED[metric.start], metric.meaning]


def _alerts() -> Iterator[str]:
    rows = (
        [f"`{alert.name}`", alert.severity, f"{alert.minutes} min", f"`{alert.condition}`", alert.remedy]
        for alert in ALERTS
    )
    return table(("alert", "severity", "for", "condition", "what to do"), rows)
