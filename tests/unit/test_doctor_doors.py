"""`motet doctor --doors`: what listens, and what it answers without a key or token."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import psutil
import pytest
from typer.testing import CliRunner

from deployments.errors import MotetError
from serve_app.cli import command_group, doctor_doors, footprint
from serve_app.cli.doctor_doors import CALLS, Door, DoorAnswer, answer_of, doors_of, finding, name_of
from serve_app.config_file import HttpAddress


@contextmanager
def http_server(statuses: dict[str, int]) -> Iterator[int]:
    """A server that answers these paths, and 404 to others. Yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.get(self.path, 404))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


@contextmanager
def grpc_server(code: grpc.StatusCode) -> Iterator[int]:
    """A server that answers one of Ray's calls with this code."""

    def answered(_: bytes, context: grpc.ServicerContext) -> bytes:
        if code != grpc.StatusCode.OK:
            context.abort(code, "no")
        return b""

    _, service, method = CALLS[1].split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(answered)}
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None)


def answered(port: int) -> DoorAnswer:
    return answer_of(Door("HAProxy", "0.0.0.0", port))


@pytest.mark.parametrize(
    ("statuses", "says", "gives"),
    [
        ({"/": 200, "/v1/models": 401}, "HTTP: / 200, /v1/models 401; /v1 asks for a key", "nothing"),
        ({"/": 200, "/v1/models": 200}, "HTTP: / 200, /v1/models 200", "more"),
        ({"/metrics": 200}, "HTTP: /metrics 200", "numbers"),
        ({"/stats": 401}, "HTTP: /stats 401", "nothing"),
        ({}, "HTTP: 404 for every path", "nothing"),
    ],
)
def test_http(statuses: dict[str, int], says: str, gives: str) -> None:
    with http_server(statuses) as port:
        assert answered(port) == DoorAnswer(says, gives)


@pytest.mark.parametrize(
    ("code", "says", "gives"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "gRPC: asks for Ray's token", "nothing"),
        (grpc.StatusCode.OK, "gRPC: answers without Ray's token", "more"),
        (grpc.StatusCode.UNIMPLEMENTED, "gRPC: no call of Ray", "nothing"),
    ],
)
def test_grpc(code: grpc.StatusCode, says: str, gives: str) -> None:
    with grpc_server(code) as port:
        assert answered(port) == DoorAnswer(says, gives)


@pytest.mark.parametrize(
    ("address", "answer", "state"),
    [
        ("127.0.0.1", DoorAnswer("all", "more"), "ok"),
        ("::1", DoorAnswer("all", "more"), "ok"),
        ("0.0.0.0", DoorAnswer("all", "more"), "broken"),
        ("::", DoorAnswer("all", "more"), "broken"),
        ("192.0.2.1", DoorAnswer("numbers", "numbers"), "info"),
        ("0.0.0.0", DoorAnswer("a key"), "ok"),
    ],
)
def test_an_open_port_that_gives_something_is_a_fault(address: str, answer: DoorAnswer, state: str) -> None:
    assert finding(Door("HAProxy", address, 80), answer).state == state


def test_a_port_is_asked_at_an_address_of_this_machine() -> None:
    addresses = ("0.0.0.0", "::", "::1", "192.0.2.1", "::ffff:127.0.0.1")
    asked = [Door("HAProxy", address, 80).reachable for address in addresses]
    assert asked == ["127.0.0.1", "::1", "::1", "192.0.2.1", "127.0.0.1"]


def test_titles_have_names() -> None:
    assert name_of("/x/ray/core/src/ray/raylet/raylet --port=1") == "raylet"
    assert name_of("ray::ServeReplica:motet:gateway") == "gateway"
    assert name_of("ray::ServeReplica:motet:tone@cpu") == "replica"
    assert name_of("nginx -g") == "nginx -g"


def test_the_ports_of_the_running_service_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_server({"/": 200}) as port, socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setattr(doctor_doors, "TIMEOUT_S", 0.1)  # the other one answers nothing
        monkeypatch.setattr(footprint, "service_at", lambda asked: os.getpid() if asked == port else None)
        monkeypatch.setattr(footprint, "processes_of", lambda pid: [psutil.Process(pid)])
        assert {door.port for door in doors_of([psutil.Process()])} >= {port, other.getsockname()[1]}
        first, *rest = doctor_doors.examine(HttpAddress(port=port))
        assert first.name.endswith(f" 127.0.0.1:{port}")
        assert first.detail == "HTTP: / 200"
        (silent,) = [each for each in rest if each.name.endswith(f":{other.getsockname()[1]}")]
        assert silent.detail == "nothing"


def test_without_a_service_there_is_nothing_to_list(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody: Callable[[int], None] = lambda port: None  # noqa: E731
    monkeypatch.setattr(footprint, "service_at", nobody)
    with pytest.raises(MotetError, match="No service of this user listens on port 8000"):
        doctor_doors.examine(HttpAddress())
    assert CliRunner().invoke(command_group.app, ["doctor", "--doors", "--cluster"]).exit_code == 2
