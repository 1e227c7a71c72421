"""Begins to trace in a process, if the configuration says so."""

from __future__ import annotations

from deployments.tracing.settings import TracingSettings
from deployments.tracing.spans import Tracer


def tracer_of(settings: TracingSettings, process: str) -> Tracer | None:
    """What traces in a process, which `process` names; None while tracing is off. The exporter is imported only if it is
    on."""
    if settings.endpoint is None:
        return None
    from deployments.tracing.otlp import OtlpTracer

    return OtlpTracer(settings, process)
