"""`motet doctor --cluster` explains why a replica has no machine; `motet join` runs the right command."""

from __future__ import annotations

import pytest

from cluster import join
from cluster.hardware import LABEL, CpuClass, CudaClass, Kind, MlxClass
from cluster.models import Model, Placement
from deployments.errors import MotetError
from serve_app import profiles
from serve_app.cli.doctor_cluster import ClusterNode, as_lines, findings
from serve_app.cli.findings import Finding, healthy
from serve_app.config import AppConfig

LINUX = ClusterNode("192.0.2.1", {"CPU": 8.0, "GPU": 1.0}, {LABEL: "cuda"})
MAC = ClusterNode("192.0.2.2", {"CPU": 8.0, "mlx": 1.0}, {})
APPLE_GPU = ClusterNode("192.0.2.3", {"CPU": 8.0, "GPU": 1.0}, {})


def service(*placements: Placement, models: int = 1) -> AppConfig:
    return AppConfig(models={f"m{n}": Model(engine="simulated", placements=placements) for n in range(models)})


def explained(app: AppConfig, *machines: ClusterNode, **replicas: int) -> list[Finding]:
    counted = {name.replace("_", "@"): count for name, count in replicas.items()}
    return [f for f in findings(app, machines, "192.0.2.1:6379", counted) if f.area == "models"]


def test_a_replica_that_runs_is_well() -> None:
    found = explained(service(Placement(hardware=MlxClass()), Placement()), LINUX, MAC, m0_mlx=1, m0_cpu=1)
    assert [item.state for item in found] == ["ok", "ok"]
    assert healthy(found)
    assert as_lines(found) == []


@pytest.mark.parametrize(
    ("hardware", "kind", "machine", "missing"),
    [
        (MlxClass(), "mlx", LINUX, "1 mlx"),
        (CudaClass(), "cuda", MAC, f"the label {LABEL}=cuda"),
        (CudaClass(), "cuda", APPLE_GPU, f"the label {LABEL}=cuda"),
        (CpuClass(cpus=100), "cpu", MAC, "100 CPU"),
    ],
)
def test_without_a_machine_of_the_class_it_is_told_how_one_joins(
    hardware: CpuClass | CudaClass | MlxClass, kind: str, machine: ClusterNode, missing: str
) -> None:
    (found,) = explained(service(Placement(hardware=hardware)), machine)
    assert found.state == "broken"
    assert missing in found.detail
    assert found.remedy.endswith(f"motet join 192.0.2.1:6379 --hardware {kind}")


def test_models_that_ask_for_more_than_there_is_are_told_so() -> None:
    app = service(Placement(hardware=MlxClass(share=0.6)), models=2)
    found = explained(app, MAC, m0_mlx=1)
    assert [item.state for item in found] == ["ok", "broken"]
    assert "ask for 1.2 mlx, and the machines have 1" in found[1].detail
    assert "share" in found[1].remedy


def test_a_replica_with_room_that_does_not_run_is_loading_or_fails() -> None:
    (found,) = explained(service(Placement(hardware=MlxClass())), MAC)
    assert found.state == "absent"
    assert "192.0.2.2" in found.detail


@pytest.mark.parametrize(
    ("kind", "there", "not_there"),
    [
        ("mlx", ['--resources={"mlx": 1.0}', "--num-gpus=0"], ["--labels"]),
        ("cuda", [f"--labels={LABEL}=cuda"], ["--num-gpus=0", "--resources"]),
        ("cpu", ["--num-gpus=0"], ["--labels", "--resources"]),
    ],
)
def test_a_machine_offers_what_replicas_of_its_class_look_for(
    kind: Kind, there: list[str], not_there: list[str]
) -> None:
    command = join.node_command("192.0.2.1:6379", kind, 6379)
    assert "--address=192.0.2.1:6379" in command
    assert all(part in command for part in there)
    assert not [part for part in command if part.startswith(tuple(not_there))]


def test_the_first_machine_is_the_head() -> None:
    command = join.node_command(None, "cpu", 7000)
    assert "--head" in command and "--port=7000" in command
    assert not [part for part in command if part.startswith("--address")]


def test_macs_are_let_into_the_cluster_and_what_is_set_wins() -> None:
    assert profiles.node_environment({})["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "1"
    assert profiles.node_environment({})["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_MODE" not in profiles.node_environment({"RAY_AUTH_MODE": "disabled"})


def test_no_machine_joins_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*join.TOKEN_NAMES, "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(join, "TOKEN_FILE", join.TOKEN_FILE / "nowhere")
    with pytest.raises(MotetError, match="get-auth-token"):
        join.join(None, "cpu", 6379, {})
