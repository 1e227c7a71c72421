"""Commands report within seconds that a cluster does not answer; Ray's own address words still work."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import services

from cluster import address as cluster_address
from cluster import ray_sessions
from deployments.errors import MotetError
from serve_app import bulk
from serve_app.bulk import BulkOptions
from serve_app.cli import deploy, doctor_cluster, join
from serve_app.config import AppConfig


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Addresses at which Ray was asked to connect."""
    addresses: list[Any] = []
    monkeypatch.setattr(ray_sessions, "remove_old", lambda folder: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address, **settings: addresses.append(address))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(os, "execve", lambda *command: addresses.append(command))
    return addresses


@pytest.fixture
def listening() -> Iterator[int]:
    """A port of this machine at which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as there:
        yield there.getsockname()[1]


@pytest.fixture
def closed() -> int:
    """A port of this machine at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as there:
        port: int = there.getsockname()[1]
    return port


def of_a_bulk_job() -> None:
    job, _ = bulk.job_of(AppConfig(), "speech", None, BulkOptions(), None)
    with bulk.cluster_for(job):
        pass


@pytest.mark.parametrize(
    "command",
    [
        lambda address: doctor_cluster.examine(None),
        lambda address: deploy.update(Path("serve_config.yaml")),
        lambda address: of_a_bulk_job(),
        lambda address: join.join(address),
    ],
    ids=["doctor", "deploy", "bulk", "join"],
)
def test_a_cluster_that_is_not_there_is_told_before_ray_is_asked(
    command: Callable[[str], None], closed: int, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ | {"RAY_ADDRESS": f"127.0.0.1:{closed}", "RAY_AUTH_MODE": "disabled"})
    with pytest.raises(MotetError, match=f"127.0.0.1:{closed}: Connection refused") as caught:
        command(f"127.0.0.1:{closed}")
    assert caught.value.failure.kind == "unavailable"
    assert "motet join" in caught.value.failure.remedy
    assert asked == []


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "localhost:{}", "ray://127.0.0.1:{}", "ray://127.0.0.1:{}/"])
def test_where_somebody_listens_ray_is_asked(form: str, listening: int, asked: list[Any]) -> None:
    cluster_address.connect(form.format(listening))
    assert asked == [form.format(listening)]


@pytest.mark.parametrize("address", ["local", "cloud://somewhere/else"])
def test_what_has_no_port_is_left_to_ray(address: str, asked: list[Any]) -> None:
    cluster_address.connect(address)
    assert asked == [address]


def test_the_cluster_of_this_machine_is_looked_for_where_ray_does(
    listening: int, closed: int, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(port: int) -> None:
        monkeypatch.setattr(services, "get_ray_address_from_environment", lambda *_: f"127.0.0.1:{port}")

    found(listening)
    cluster_address.connect("auto")
    assert asked == ["auto"]
    found(closed)
    with pytest.raises(MotetError, match=str(closed)):
        cluster_address.connect("auto")


@pytest.mark.parametrize("address", ["somewhere", "host:", ":6379", "host:0", "host:70000", "host:six"])
def test_what_is_no_address_is_told_with_what_one_is(address: str, asked: list[Any]) -> None:
    with pytest.raises(MotetError, match=r"HOST:PORT, ray://HOST:PORT, auto or local"):
        cluster_address.connect(address)
    assert asked == []


def test_a_cluster_that_lets_nobody_in_is_told_with_rays_first_line(
    listening: int, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise ConnectionError("The token is wrong.\nAnd more.")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(MotetError, match=r"The token is wrong\. Start"):
        cluster_address.connect(f"127.0.0.1:{listening}")
    with pytest.raises(ConnectionError):
        cluster_address.connect("local")
