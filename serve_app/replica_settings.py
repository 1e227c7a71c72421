"""What a replica is told of its model and placement."""

from __future__ import annotations

from deployments.replica import ReplicaSettings
from serve_app.config import Model, Placement


def replica_settings(name: str, model: Model, placement: Placement) -> ReplicaSettings:
    """One model on one hardware class."""
    model = model.on(placement)
    return ReplicaSettings(
        model=name,
        engine=model.engine,
        source=model.source,
        device=placement.hardware.device,
        threads=placement.hardware.threads,
        scheduling=placement.hardware.scheduling,
        sha256=model.sha256,
        options=model.options,
        steps=model.steps,
        stuck_after_seconds=placement.stuck_after_seconds,
    )
