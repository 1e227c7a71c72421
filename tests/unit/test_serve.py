"""`motet serve` without a cluster, and the state in which it leaves a cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import serve
from ray.serve import context
from ray.serve.schema import ApplicationStatus

from cluster import address as cluster_address
from cluster import ray_private
from cluster.hardware import MlxClass
from cluster.models import Model, Placement
from deployments.errors import MotetError
from serve_app.cli import application as on_ray_serve
from serve_app.cli import deploy, doctor_cluster, serve_process
from serve_app.config import AppConfig
from serve_app.config_file import ConfigFile, HttpAddress
from serve_app.edge.settings import VARIABLE, EdgeSettings, SecuritySettings, TlsSettings
from serve_app.gateway.jobs.folder_claim import FolderClaim
from serve_app.gateway.jobs.settings import JobSettings
from serve_app.loading import actor

LOADED = "remove what was loaded into motet"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Ray and Ray Serve were told to do, in order."""
    orders: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", lambda: orders.append("disconnect"))
    monkeypatch.setattr(serve, "shutdown", lambda: orders.append("end Ray Serve"))
    monkeypatch.setattr(serve, "delete", lambda name: orders.append(f"delete {name}"))
    monkeypatch.setattr(actor, "remove_all", lambda name: orders.append(f"remove what was loaded into {name}"))
    return orders


@pytest.mark.parametrize(
    ("application", "running", "expected"),
    [
        (None, ["motet"], ["disconnect"]),
        ("motet", ["motet", "motet+voice"], [LOADED, "end Ray Serve", "disconnect"]),
        ("motet", [], [LOADED, "end Ray Serve", "disconnect"]),
        ("motet", ["motet", "theirs"], [LOADED, "delete motet", "disconnect"]),
    ],
    ids=["its own Ray", "a cluster", "a cluster, before it came up", "a cluster with others"],
)
def test_what_the_service_takes_with_it(
    application: str | None, running: list[str], expected: list[str], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=dict.fromkeys(running)))
    on_ray_serve.remove(application)
    assert told == expected


def test_without_a_cluster_this_machine_takes_every_class() -> None:
    placements = (Placement(hardware=MlxClass()), Placement())
    app = AppConfig(models={"tone": Model(engine="simulated", placements=placements)})
    assert serve_process._own_machine(ConfigFile(http=HttpAddress(), app=app, serve={}))["resources"] == {"mlx": 1.0}
    assert serve_process._own_machine(ConfigFile(http=HttpAddress(), app=AppConfig(), serve={}))["resources"] == {}


def test_the_start_names_every_model() -> None:
    assert serve_process.served_models(AppConfig()) == [
        "speech         hibari (tts-1, tts-1-hd, gpt-4o-mini-tts and 1 more)",
        "transcription  whisper-base (whisper-1, gpt-4o-transcribe, gpt-4o-mini-transcribe and 5 more)",
        "separation     deepfilternet",
    ]


@pytest.mark.parametrize(
    ("host", "https", "keys", "says"),
    [
        ("127.0.0.1", None, 0, ""),
        ("0.0.0.0", None, 0, "Warning: 0.0.0.0:8000 is open to the network and no key"),
        ("127.0.0.1", "0.0.0.0", 0, "Warning: 0.0.0.0:8443 is open to the network and no key"),
        ("127.0.0.1", "127.0.0.1", 0, ""),
        ("127.0.0.1", "0.0.0.0", 1, ""),
    ],
)
def test_a_start_warns_of_each_open_address_without_a_key(
    host: str, https: str | None, keys: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(ray_private, "metrics_port_of_this_machine", lambda: None)
    monkeypatch.setattr(serve_process, "_tell_what_waits", lambda app: None)
    monkeypatch.setattr(cluster_address, "service_identity", lambda application: "one")
    tls = TlsSettings(certificate="c.pem", key="k.pem", host=https) if https else None
    security = SecuritySettings(api_key_sha256=("0" * 64,) * keys)
    app = AppConfig(edge=EdgeSettings(tls=tls), security=security, jobs=JobSettings(folder="/nowhere"))
    serve_process._announce(ConfigFile(http=HttpAddress(host=host), app=app, serve={}))
    (*_, last) = capsys.readouterr().out.splitlines()
    assert last.startswith(says) if says else "Warning" not in last


def test_the_folder_of_jobs_is_held_or_its_owner_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(cluster_address, "service_identity", lambda application: f"{application} of this cluster")
    settings = ConfigFile(http=HttpAddress(), app=AppConfig(jobs=JobSettings(folder=str(tmp_path))), serve={})
    gateway = FolderClaim(tmp_path, f"{settings.application} of this cluster")
    held = serve_process._hold_jobs(settings)
    assert held is not None
    assert capsys.readouterr().out == ""
    gateway.close()  # it is replaced
    with pytest.raises(MotetError, match="belongs to another service"):
        FolderClaim(tmp_path, "motet of another cluster")
    held.close()
    other = FolderClaim(tmp_path, "motet of another cluster")
    assert serve_process._hold_jobs(settings) is None
    said = capsys.readouterr().out
    assert "belongs to another service motet of another cluster, process" in said
    assert "Stop the other one, or give one of them another jobs.folder" in said
    other.close()


def test_bounds_of_connections_that_a_cluster_has_not_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    edge = EdgeSettings(header_s=5)
    monkeypatch.delenv(VARIABLE, raising=False)
    on_ray_serve.check_edge(EdgeSettings())
    with pytest.raises(MotetError, match=VARIABLE):
        on_ray_serve.check_edge(edge)
    monkeypatch.setenv(VARIABLE, edge.model_dump_json())
    on_ray_serve.check_edge(edge)


def fails(status: ApplicationStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Serve tells of one deployment that failed."""
    failed = SimpleNamespace(status="DEPLOY_FAILED", message="Error:\nRuntimeError: There is no folder /nowhere.")
    application = SimpleNamespace(status=status, message="", deployments={"tone@cpu": failed})
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications={"motet": application}))
    monkeypatch.setattr(serve_process, "_ready", lambda url: False)
    monkeypatch.setattr(doctor_cluster, "pending_of", lambda app: ["tone@cpu waits."])


@pytest.mark.parametrize(
    ("status", "limit_s", "kind", "remedy"),
    [
        (ApplicationStatus.DEPLOY_FAILED, 300.0, "unavailable", "Correct "),
        (ApplicationStatus.DEPLOYING, 1e-9, "timeout", "start_timeout_s"),
    ],
)
def test_a_start_and_an_update_that_fail_say_why_and_what_to_do(
    status: ApplicationStatus, limit_s: float, kind: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(status, monkeypatch)
    settings = ConfigFile(http=HttpAddress(), app=AppConfig(start_timeout_s=limit_s), serve={})
    waits: list[Callable[[], None]] = [
        lambda: serve_process._wait_until_ready(settings, threading.Event()),
        lambda: deploy._wait_until_updated(settings),
    ]
    for wait in waits:
        with pytest.raises(MotetError, match="tone@cpu: RuntimeError: There is no folder /nowhere.") as caught:
            wait()
        assert caught.value.failure.kind == kind
        assert remedy in caught.value.failure.remedy


def test_an_update_that_fails_says_what_is_down_until_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    fails(ApplicationStatus.DEPLOY_FAILED, monkeypatch)
    with pytest.raises(MotetError) as caught:
        deploy._wait_until_updated(ConfigFile(http=HttpAddress(), app=AppConfig(), serve={}))
    remedy = caught.value.failure.remedy
    assert "named here is down until" in remedy
    assert "What ran before" not in remedy


def serves_at(host: str, port: int, monkeypatch: pytest.MonkeyPatch, status: str = "RUNNING") -> list[str]:
    """Ray Serve listens there already, and has one application `motet` at /. What it is told to do."""
    orders: list[str] = []
    details = {"applications": {"motet": {"route_prefix": "/", "status": status}}}
    client = SimpleNamespace(http_config=SimpleNamespace(host=host, port=port), get_serve_details=lambda: details)
    monkeypatch.setattr(context, "_get_global_client", lambda raise_if_no_controller_running: client)
    monkeypatch.setattr(serve, "start", lambda **_: orders.append("start"))
    monkeypatch.setattr(serve, "run_many", lambda *_, **__: orders.append("run"))
    return orders


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 9000), ("0.0.0.0", 8000)])
def test_a_running_service_does_not_move(host: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = serves_at("127.0.0.1", 8000, monkeypatch)
    settings = ConfigFile(http=HttpAddress(host=host, port=port), app=AppConfig(), serve={})
    with pytest.raises(MotetError, match=f"listens at 127.0.0.1:8000, .* cannot move to {host}:{port}") as caught:
        on_ray_serve.deploy(settings)
    assert caught.value.failure.param == "http_options"
    assert orders == []


def test_a_running_service_is_changed_at_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = serves_at("127.0.0.1", 8000, monkeypatch)
    on_ray_serve.deploy(ConfigFile(http=HttpAddress(), app=AppConfig(), serve={}))
    assert orders == ["start", "run"]


def test_a_service_under_another_name_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = serves_at("127.0.0.1", 8000, monkeypatch)
    settings = ConfigFile(http=HttpAddress(), app=AppConfig(), serve={"applications": [{"name": "speech"}]})
    with pytest.raises(MotetError, match="'motet' runs at /, and cannot become 'speech'") as caught:
        on_ray_serve.deploy(settings)
    assert "'motet'" in caught.value.failure.remedy
    assert orders == []


@pytest.mark.parametrize(("prefix", "status"), [("/speech", "RUNNING"), ("/", "DELETING")])
def test_a_service_goes_beside_another_one(prefix: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = serves_at("127.0.0.1", 8000, monkeypatch, status)
    application = {"name": "speech", "route_prefix": prefix}
    on_ray_serve.deploy(ConfigFile(http=HttpAddress(), app=AppConfig(), serve={"applications": [application]}))
    assert orders == ["start", "run"]
