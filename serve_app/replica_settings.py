"""Settings of a replica, from its model and its placement."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.models import Model, Placement, reserved_cpus
from deployments.replica.base import ReplicaSettings
from deployments.tracing.settings import TracingSettings


def replica_settings(
    name: str,
    model: Model,
    placement: Placement,
    models: Mapping[str, Model] | None = None,
    tracing: TracingSettings | None = None,
) -> ReplicaSettings:
    """The settings of one model on one hardware class. `models` are all models of the service; nothing is traced without
    `tracing`."""
    model = model.on(placement)
    return ReplicaSettings(
        model=name,
        engine=model.engine,
        source=model.source,
        device=placement.hardware.device,
        threads=placement.hardware.threads,
        reserved_cpus=reserved_cpus(name, placement.hardware.kind, models or {}),
        scheduling=placement.hardware.scheduling,
        sha256=model.sha256,
        beside=model.beside,
        options=model.options,
        steps=model.steps,
        stuck_after_s=placement.stuck_after_s,
        tracing=tracing or TracingSettings(),
    )
