"""The environment that Ray is started with."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest

from cluster import join as node
from serve_app import profiles
from serve_app.cli.join import join
from serve_app.cli.serve_process import url_of
from serve_app.edge.settings import FRONT_HOST, EdgeSettings, edge_of
from serve_app.profiles import (
    ONE_MACHINE,
    STORE_CAP,
    Profile,
    environment,
    fitting,
    folder_for_sockets,
    free_port,
    node_environment,
    object_store,
    write_haproxy_program,
)

FOLDER = Path("/run/motet")


@pytest.mark.parametrize("profile", ["throughput", "plain"])
def test_token_authentication_is_on_with_a_token_of_this_run(profile: Profile) -> None:
    first, second = (environment(profile, FOLDER, 8000, {}) for _ in range(2))
    assert first["RAY_AUTH_MODE"] == "token"
    assert len(first["RAY_AUTH_TOKEN"]) == 64
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_a_token_that_is_there_is_kept(name: str) -> None:
    assert "RAY_AUTH_TOKEN" not in environment("plain", FOLDER, 8000, {name: "x"})


def test_what_the_caller_set_wins() -> None:
    assert "OMP_NUM_THREADS" not in environment("plain", FOLDER, 8000, {"OMP_NUM_THREADS": "4"})


@pytest.mark.parametrize("profile", ["throughput", "plain"])
def test_a_service_on_a_machine_of_its_own_is_light_and_a_cluster_is_left_as_it_is(profile: Profile) -> None:
    assert ONE_MACHINE.items() <= environment(profile, FOLDER, 8000, {}).items()
    assert not ONE_MACHINE.keys() & environment(profile, FOLDER, 8000, {"RAY_ADDRESS": "10.0.0.1:6379"}).keys()
    assert not ONE_MACHINE.keys() & node_environment({}).keys()


def test_the_throughput_profile_keeps_its_files_to_itself() -> None:
    wanted = environment("throughput", FOLDER, 8000, {})
    assert wanted["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
    assert wanted["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    places = [value for name, value in wanted.items() if name.startswith("RAY_SERVE_HAPROXY") and "/" in value]
    assert len(places) == 6
    assert all(place.startswith(str(FOLDER)) for place in places)
    assert not any("HAPROXY" in name for name in environment("plain", FOLDER, 8000, {}))


def test_the_bounds_of_the_file_reach_every_http_server() -> None:
    edge = EdgeSettings(max_connections=1000, unread_s=300)
    for profile in get_args(Profile):
        wanted = environment(profile, FOLDER, 8000, {}, edge)
        assert edge_of(wanted) == edge
        assert wanted["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == "serve_app.edge.middleware:middlewares"
    wanted = environment("throughput", FOLDER, 8000, {}, edge)
    assert wanted["RAY_SERVE_HAPROXY_MAXCONN"] == "1032"
    assert wanted["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"] == "300"


def test_only_haproxy_listens_where_the_service_does() -> None:
    wanted = environment("throughput", FOLDER, 8000, {}, host="0.0.0.0")
    assert wanted[FRONT_HOST] == "0.0.0.0"
    assert FRONT_HOST not in environment("plain", FOLDER, 8000, {}, host="0.0.0.0")
    assert FRONT_HOST not in environment("throughput", FOLDER, 8000, {"RAY_ADDRESS": "10.0.0.1:6379"}, host="0.0.0.0")


def test_ray_serve_finds_a_program_where_it_looks_for_haproxy(tmp_path: Path) -> None:
    write_haproxy_program(tmp_path)
    program = Path(environment("throughput", tmp_path, 8000, {})["RAY_SERVE_HAPROXY_BINARY_PATH"])
    assert os.access(program, os.X_OK)
    asked = subprocess.run([program, "-f", "/nowhere.cfg"], capture_output=True, text=True, timeout=60)
    assert "No such file or directory: '/nowhere.cfg'" in asked.stderr


def test_two_services_do_not_want_the_same_ports() -> None:
    first, second = (environment("throughput", FOLDER, port, {}) for port in (18000, 18001))
    names = ("HAPROXY_STATS_PORT", "HAPROXY_METRICS_PORT", "FALLBACK_PROXY_HTTP_PORT", "DIRECT_INGRESS_MIN_HTTP_PORT")
    for name in (f"RAY_SERVE_{name}" for name in names):
        assert first[name] != second[name]
    assert environment("throughput", FOLDER, 65535, {})["RAY_SERVE_HAPROXY_STATS_PORT"]


def test_an_address_that_haproxy_cannot_serve_gets_the_plain_profile() -> None:
    assert fitting("throughput", "127.0.0.1") == "throughput"
    assert fitting("throughput", "192.168.1.5") == "plain"


def test_a_taken_port_is_replaced() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("::", "http://[::1]:8000"),
    ],
)
def test_where_a_client_finds_the_service(host: str, url: str) -> None:
    assert url_of(host, 8000) == url


@pytest.mark.parametrize(
    ("usual", "folder"), [("/tmp", "/tmp"), ("/var/tmp", "/var/tmp"), ("/home/someone/tmp", "/tmp")]
)
def test_sockets_fit_into_an_address(usual: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", usual)
    assert folder_for_sockets() == folder


RAYS_STORE = "from ray._private.utils import resolve_object_store_memory as store; print(store(24 * 10**9))"
"""Prints how large Ray makes the object store of a machine with 24 GB of free memory."""
CONTAINER = 2 * 1024**3
"""Bytes of shared memory in the container of compose.yaml."""


def test_rays_objects_stay_in_a_containers_shared_memory() -> None:
    environ = os.environ | object_store(CONTAINER, {})
    done = subprocess.run([sys.executable, "-c", RAYS_STORE], env=environ, capture_output=True, text=True, timeout=60)
    assert int(done.stdout) == int(0.9 * CONTAINER)


@pytest.mark.parametrize("shared", [0, 64 * 1024**2, 12 * 1024**3])
def test_ray_chooses_where_shared_memory_is_large_or_too_small_for_a_store(shared: int) -> None:
    assert object_store(shared, {}) == {}


def test_the_store_that_the_caller_set_wins() -> None:
    assert object_store(CONTAINER, {STORE_CAP: "1"}) == {}


def test_services_and_machines_that_join_keep_their_store_in_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[Mapping[str, str]] = []
    monkeypatch.setattr(profiles, "shared_memory", lambda: CONTAINER)
    monkeypatch.setattr(node, "join", lambda address, kind, port, environment: joined.append(environment))
    join(None)
    for found in (joined[0], environment("plain", FOLDER, 8000, {})):
        assert found[STORE_CAP] == str(int(0.9 * CONTAINER))
    assert STORE_CAP not in environment("plain", FOLDER, 8000, {"RAY_ADDRESS": "10.0.0.1:6379"})


def test_shared_memory_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(profiles, "SHARED_MEMORY", str(tmp_path))
    assert profiles.shared_memory() > 0
    monkeypatch.setattr(profiles, "SHARED_MEMORY", str(tmp_path / "none"))
    assert profiles.shared_memory() == 0
