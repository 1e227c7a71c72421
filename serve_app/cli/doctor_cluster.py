"""`motet doctor --cluster`: the machines of a cluster, and why a replica of the configuration does not run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import address as cluster_address
from cluster.hardware import LABEL
from cluster.models import Placement
from serve_app import config_file, profiles
from serve_app.cli.findings import Finding
from serve_app.config import AppConfig

UNITS = {"num_cpus": "CPU", "num_gpus": "GPU"}


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A Ray node, and everything that it offers, in use or not."""

    address: str
    offers: Mapping[str, float]
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ReplicaNeed:
    """What each replica of one placement needs of a machine."""

    name: str
    kind: str
    replicas: int
    resources: Mapping[str, float]
    labels: Mapping[str, str]

    @classmethod
    def of(cls, model: str, placement: Placement) -> ReplicaNeed:
        """The needs of a placement."""
        options = placement.hardware.actor_options()
        named = {unit: float(options[key]) for key, unit in UNITS.items() if options.get(key)}
        kind = placement.hardware.kind
        wanted = {**named, **options.get("resources", {})}
        replicas = placement.least_replicas + placement.spare
        return cls(f"{model}@{kind}", kind, replicas, wanted, options.get("label_selector", {}))

    def fits(self, machine: ClusterNode) -> bool:
        """Whether one replica could run there if nothing else did."""
        labelled = all(machine.labels.get(name) == value for name, value in self.labels.items())
        return labelled and all(machine.offers.get(name, 0.0) >= share for name, share in self.resources.items())

    def __str__(self) -> str:
        parts = [f"{share:g} {name}" for name, share in self.resources.items()]
        parts += [f"the label {name}={value}" for name, value in self.labels.items()]
        return " and ".join(parts) or "nothing"


def examine(file: Path | None) -> list[Finding]:
    """Examines the cluster at RAY_ADDRESS, or the one on this machine. Raises `MotetError` (unavailable) if none answers."""
    os.environ.update(profiles.node_environment(os.environ))  # before Ray is imported, which reads it
    import ray

    app = config_file.read(file).app if file else AppConfig()
    cluster_address.connect(os.environ.get("RAY_ADDRESS") or cluster_address.LAST_STARTED)
    try:
        return list(findings(app, machines(), ray.get_runtime_context().gcs_address, running()))
    finally:
        ray.shutdown()


def machines() -> list[ClusterNode]:
    """The machines of the cluster that this process is connected to."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return [ClusterNode(node["NodeManagerAddress"], node["Resources"], node["Labels"]) for node in alive]


def running() -> Mapping[str, int]:
    """Replicas that run, by deployment, of every application of the cluster that this process is connected to."""
    from ray import serve
    from ray.serve.schema import ReplicaState  # type: ignore[attr-defined]

    found: dict[str, int] = {}
    for application in serve.status().applications.values():
        for name, deployment in application.deployments.items():
            found[name] = deployment.replica_states.get(ReplicaState.RUNNING, 0)
    return found


def findings(
    app: AppConfig, there: Sequence[ClusterNode], address: str, replicas: Mapping[str, int]
) -> Iterator[Finding]:
    """The machines, then each placement: whether it runs or has room, or why not and the command that helps."""
    for machine in there:
        yield Finding("hardware", machine.address, "ok", _offers(machine))
    needs = [ReplicaNeed.of(name, placement) for name, model in app.models.items() for placement in model.placements]
    for need in needs:
        yield _explained(need, needs, there, address, replicas.get(need.name, 0))


def _explained(
    need: ReplicaNeed, needs: Sequence[ReplicaNeed], there: Sequence[ClusterNode], address: str, replicas: int
) -> Finding:
    able = [machine for machine in there if need.fits(machine)]
    if replicas >= need.replicas:
        return Finding("models", need.name, "ok", f"{replicas} of {need.replicas} replicas run")
    if not able:
        cause = f"a replica needs {need}, and no machine has that"
        return Finding("models", need.name, "broken", cause, f"On such a machine: {join_line(need.kind, address)}")
    for unit in need.resources:
        wanted = sum(other.replicas * other.resources.get(unit, 0.0) for other in needs)
        offered = sum(machine.offers.get(unit, 0.0) for machine in there)
        if wanted > offered:
            cause = f"all models together ask for {wanted:g} {unit}, and the machines have {offered:g}"
            remedy = f"Ask for less in its hardware ({_setting(unit)}), or on another machine: "
            return Finding("models", need.name, "broken", cause, remedy + join_line(need.kind, address))
    where = ", ".join(machine.address for machine in able)
    cause = f"{replicas} of {need.replicas} replicas run; there is room on {where}"
    return Finding(
        "models", need.name, "absent", cause, "It is loading, or it fails there: motet doctor on that machine"
    )


def join_line(kind: str, address: str) -> str:
    """The command with which a machine of that class joins."""
    return f"motet join {address} --hardware {kind}"


def _offers(machine: ClusterNode) -> str:
    units = [f"{machine.offers[unit]:g} {unit}" for unit in ("CPU", "GPU", "mlx") if machine.offers.get(unit)]
    label = machine.labels.get(LABEL)
    return ", ".join(units + ([f"{LABEL}={label}"] if label else []))


def _setting(unit: str) -> str:
    return {"CPU": "cpus", "GPU": "gpus"}.get(unit, "share")


def as_lines(found: Sequence[Finding]) -> list[str]:
    """The broken findings as lines of text."""
    return [f"{item.name}: {item.detail}. {item.remedy}" for item in found if item.state == "broken"]


def pending_of(app: AppConfig) -> list[str]:
    """Placements that cannot start in the connected cluster, each with its remedy."""
    import ray

    context: Any = ray.get_runtime_context()
    return as_lines(list(findings(app, machines(), context.gcs_address, running())))
