"""The Prometheus alert rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from deployments.replica import metric_table as replica
from serve_app.gateway import metric_table as gateway
from serve_app.monitoring import metrics
from serve_app.monitoring.panels import TOO_MANY
from serve_app.monitoring.promql import PromQl

LEAST_BUFFER_MS = 50
BUSY_CPU_PERCENT = 90
FULL_MEMORY_SHARE = 0.8
FAILED_SHARE = 0.01
REFUSED_SHARE = 0.05
CONCEALED_SHARE = 0.01
QUEUED_SECONDS_OF_AUDIO = 600
THE_SERVICE_FAILED = 'kind=~"engine|storage_full|timeout|unavailable"'

RECENT = PromQl("5m")
FIRST_SOUND_ALARM = RECENT.value(gateway.FIRST_SOUND_ALARM_MS, fold="max")
"""The service's own limit."""
HEAD = "# `motet metrics --alerts` made this file. docs/metrics.md explains each alert; a test holds both current.\n"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert: a condition that holds for `minutes`. `summary` and `remedy` are for the person who gets it."""

    name: str
    condition: str
    minutes: int
    severity: Literal["warning", "critical"]
    summary: str
    remedy: str


ALERTS: Sequence[Alert] = (
    Alert(
        "MotetAbsent",
        f"absent({gateway.FIRST_SOUND_ALARM_MS.series[0]})",
        2,
        "critical",
        "No gateway of Motet is scraped.",
        "Check that the service runs, and the targets of Prometheus.",
    ),
    Alert(
        "MotetFirstSoundLate",
        f"{RECENT.quantile(0.95, gateway.FIRST_SOUND_MS, 'model')} > scalar({FIRST_SOUND_ALARM})",
        5,
        "warning",
        "{{ $labels.model }}: the first sound of one request in 20 is later than speech.first_sound_alarm_ms.",
        "The panels of queues and steps show where it waits. Add replicas, or lower the batch size.",
    ),
    Alert(
        "MotetBufferLow",
        f"{RECENT.quantile(0.05, gateway.LEAST_LEAD_MS, 'model')} < {LEAST_BUFFER_MS}",
        5,
        "warning",
        f"{{{{ $labels.model }}}}: one stream in 20 had less than {LEAST_BUFFER_MS} ms of audio ahead of playback.",
        "The model is hardly faster than playback under this load. Add replicas, or use a more stable pacing preset.",
    ),
    Alert(
        "MotetAudioConcealed",
        f"{RECENT.share(gateway.CONCEALED_SECONDS, replica.AUDIO_MADE_SECONDS, 'model')} > {CONCEALED_SHARE:g}",
        5,
        "warning",
        f"{{{{ $labels.model }}}}: more than {CONCEALED_SHARE:.0%} of the audio is concealment, because chunks are late.",
        "Add replicas. If steps are slow without load, look at what else runs on the machine.",
    ),
    Alert(
        "MotetFailures",
        f"{RECENT.share(gateway.FAILURES, gateway.REQUESTS, 'model', where=THE_SERVICE_FAILED)} > {FAILED_SHARE:g}",
        5,
        "critical",
        f"{{{{ $labels.model }}}}: the service fails more than {FAILED_SHARE:.0%} of the requests.",
        "The log of the gateway has a line with the cause of each failure, and the id of its request.",
    ),
    Alert(
        "MotetRefusals",
        f"{RECENT.share(gateway.REQUESTS, gateway.REQUESTS, 'model', where=TOO_MANY)} > {REFUSED_SHARE:g}",
        5,
        "warning",
        f"{{{{ $labels.model }}}}: more than {REFUSED_SHARE:.0%} of the requests are refused with 429.",
        "There is more to do than the replicas can do. Add replicas, or send bulk work as jobs.",
    ),
    Alert(
        "MotetQueueLong",
        f"{RECENT.value(gateway.QUEUED_SECONDS_OF_AUDIO, 'placement')} > {QUEUED_SECONDS_OF_AUDIO}",
        10,
        "warning",
        f"{{{{ $labels.placement }}}}: more than {QUEUED_SECONDS_OF_AUDIO} s of audio have waited for ten minutes.",
        "Add replicas. If nothing is made meanwhile, a replica hangs: see its log.",
    ),
    Alert(
        "MotetCpuBusy",
        f"{RECENT.value(metrics.CPU_PERCENT, 'ip', fold='max')} > {BUSY_CPU_PERCENT}",
        10,
        "warning",
        f"{{{{ $labels.ip }}}}: CPU use has been over {BUSY_CPU_PERCENT} % for ten minutes.",
        "Streams that are played may soon be interrupted. Add a machine, or move other work away.",
    ),
    Alert(
        "MotetMemoryFull",
        f"{RECENT.share(metrics.MEMORY_USED, metrics.MEMORY_TOTAL, 'ip', fold='max')} > {FULL_MEMORY_SHARE:g}",
        5,
        "warning",
        f"{{{{ $labels.ip }}}}: more than {FULL_MEMORY_SHARE:.0%} of the memory is in use; on a Mac, GPU included.",
        "Engines on unified memory refuse new work when it is full. Serve fewer models or smaller batches there.",
    ),
)


def alert_rules() -> str:
    """The text of `cluster/launch/alerts.yaml`."""
    rules = {"groups": [{"name": "motet", "rules": [_rule(alert) for alert in ALERTS]}]}
    return HEAD + yaml.safe_dump(rules, sort_keys=False, width=160)


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.condition,
        "for": f"{alert.minutes}m",
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "description": alert.remedy},
    }
