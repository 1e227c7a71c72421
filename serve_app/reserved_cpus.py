"""The CPUs that a model with `threads: auto` leaves to the other models of a service."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.models import Model


def reserved_cpus(name: str, kind: str, models: Mapping[str, Model]) -> float:
    """CPUs that the other models' placements on a class keep for themselves: those that reserve one or more a replica. Less
    than one is a share of cores that are everybody's."""
    others = (placed for other, model in models.items() if other != name for placed in model.placements)
    return sum(
        placed.hardware.cpus * placed.least_replicas
        for placed in others
        if placed.hardware.kind == kind and placed.hardware.cpus >= 1
    )
