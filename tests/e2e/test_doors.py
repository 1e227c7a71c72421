"""Every port that the service listens on is in the table of `docs/security.md`, and only its own one may be open to a network."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain

import grpc
import httpx
import psutil
import pytest

from serve_app.cli.doctor_doors import CALLS, PROCESSES, name_of
from serve_app.cli.processes import command_line, descendants
from serve_app.edge.addresses import is_loopback
from serve_app.edge.security_headers import SECURITY_HEADERS

from .conftest import KEYS, ROOT, Service, answers, with_identity

SECTION = (ROOT / "docs" / "security.md").read_text().split("\n## Ports\n")[1].split("\n## ")[0]
ROWS = re.findall(r"^\| (?!process|---)(.*?) \| .*? \| (.*?) \| .*? ?\|$", SECTION, re.MULTILINE)
ADDRESSES = {process.strip("`"): address.strip("`") for process, address in ROWS}
"""The address in the table of each process; HAProxy has two rows."""


def listeners(service: Service) -> Iterator[tuple[str, str, int]]:
    """(name in the table, address, port) of every TCP port that the service's processes listen on."""
    marked = service.processes()
    # The titles of Ray's agents overwrite their environments, in which the mark would be.
    below = chain.from_iterable(descendants(each.pid) for each in marked)
    for process in {each.pid: each for each in (*marked, *below)}.values():
        title = " ".join(command_line(process))
        for connection in chain.from_iterable(answers([process], lambda asked: asked.net_connections("tcp"))):
            if connection.status == psutil.CONN_LISTEN:
                yield name_of(title), connection.laddr.ip, connection.laddr.port


@pytest.fixture(scope="module")
def plain_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("plain")
    running = Service.start(with_identity(folder), folder, host="0.0.0.0", profile="plain")
    yield running
    running.stop(signal.SIGTERM)


@pytest.fixture(params=["service", "keyed_service", "plain_service"])
def any_service(request: pytest.FixtureRequest) -> Service:
    """On loopback with HAProxy, and open to the network with HAProxy and without."""
    service: Service = request.getfixturevalue(request.param)
    return service


def test_the_table_was_read() -> None:
    assert set(ADDRESSES) == set(PROCESSES.values())


def test_only_the_services_port_may_be_open_and_every_other_is_in_the_table(any_service: Service) -> None:
    found = list(listeners(any_service))
    assert {name for name, _, _ in found} <= set(ADDRESSES)
    assert {address for _, address, port in found if port == any_service.port} == {any_service.host}
    others = {(name, address, port) for name, address, port in found if port != any_service.port}
    assert len(others) >= 15
    assert {each for each in others if not is_loopback(each[1])} == set()


def test_every_process_of_the_table_listens(service: Service) -> None:
    assert {name for name, _, _ in listeners(service)} == set(ADDRESSES)


def test_every_port_asks_for_the_token_or_answers_what_the_table_says(service: Service) -> None:
    """HTTP of HAProxy, the gateway, the fallback proxy and Ray's agents is in the table; everything else is Ray's own gRPC."""
    by_process: dict[str, list[bool]] = {}
    for name, _, port in set(listeners(service)):
        by_process.setdefault(name, []).append(asks_for_token(port))
    for name in ("raylet", "replica", "Ray worker", "motet serve"):
        assert all(by_process[name]), by_process
    for name in ("GCS", "gateway", "fallback proxy"):
        assert any(by_process[name]), by_process


def asks_for_token(port: int) -> bool:
    """Whether a server refuses a call that it implements. A server that answers one is open."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        codes = [code_of(channel.unary_unary(call)) for call in CALLS]
    assert grpc.StatusCode.OK not in codes
    return grpc.StatusCode.UNAUTHENTICATED in codes


def code_of(call: Callable[..., bytes], token: str | None = None) -> grpc.StatusCode:
    """What a call of Ray's protocol is answered."""
    headers = [] if token is None else [("authorization", f"Bearer {token}")]
    try:
        call(b"", timeout=5, metadata=headers)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def test_the_command_lists_every_port(any_service: Service) -> None:
    """Only a service that is open without a key is a fault."""
    command = [sys.executable, "-m", "serve_app.cli.main", "doctor", "--doors", "--json"]
    environment = {**os.environ, "MOTET_PORT": str(any_service.port), "MOTET_HOST": any_service.host}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=120)
    found = {each["name"]: each for each in json.loads(done.stdout)["findings"]}
    listed = listeners(any_service)
    wanted = {f"{name} {f'[{at}]' if ':' in at else at}:{port}" for name, at, port in listed}
    assert set(found) == wanted
    (own,) = [each for name, each in found.items() if name.endswith(f":{any_service.port}")]
    keyed = httpx.get(f"{any_service.url}/v1/models", timeout=20).status_code == 401
    is_open = not keyed and not is_loopback(any_service.host)
    assert ("/v1 asks for a key" in own["detail"]) == keyed
    assert own["state"] == ("broken" if is_open else "ok")
    assert done.returncode == is_open
    assert {each["state"] for each in found.values() if each is not own} == {"ok"}
    for name in ("raylet", "replica", "motet serve"):
        said = {each["detail"] for title, each in found.items() if title.startswith(f"{name} ")}
        assert said == {"gRPC: asks for Ray's token"}


def test_haproxys_pages_show_numbers_and_take_no_commands(service: Service) -> None:
    pages = {port for name, _, port in listeners(service) if name == "HAProxy" and port != service.port}
    assert len(pages) == 2
    for port in pages:
        shown = [httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5).text for path in ("/metrics", "/stats")]
        assert any("# HELP" in text or "Statistics Report" in text for text in shown)
        changed = httpx.post(f"http://127.0.0.1:{port}/stats", timeout=5, content=b"s=x&action=drain&b=x")
        assert changed.status_code >= 400 or changed.headers.get("location", "").endswith("st=DENY")


@pytest.mark.parametrize("path", ["/livez", "/", "/v1/models", "/nope", "/-/healthz", "/-/routes", "/openapi.json"])
def test_every_answer_has_security_headers(path: str, any_service: Service) -> None:
    answer = httpx.get(f"{any_service.url}{path}", timeout=20)
    for name, value in SECURITY_HEADERS.items():
        assert name in answer.headers
        if name != "content-security-policy":
            assert answer.headers[name] == value
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_ray_serves_control_headers_have_no_effect(any_service: Service) -> None:
    """With the first one Ray Serve would answer 408, with the others it would look for a replica that is not there."""
    control = {"x-request-timeout-seconds": "0.000001", "x-session-id": "1", "serve_multiplexed_model_id": "x"}
    answer = httpx.get(
        f"{any_service.url}/v1/models", headers={"authorization": f"Bearer {KEYS[0]}", **control}, timeout=20
    )
    assert answer.status_code == 200
