"""`motet doctor --doors`: every port on which the running service listens, its address, and what it answers without a key or
token."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import ip_address
from typing import Any

import psutil

from deployments.errors import fail
from serve_app.cli import footprint
from serve_app.cli.findings import Finding
from serve_app.cli.processes import command_line
from serve_app.config_file import HttpAddress
from serve_app.edge.addresses import is_loopback

PROCESSES = {
    r"haproxy": "HAProxy",
    r"gcs_server": "GCS",
    r"raylet/raylet": "raylet",
    r"RuntimeEnvAgent": "Ray's runtime environments",
    r"DashboardAgent": "Ray's agent",
    r"^ray::ServeReplica:motet:gateway": "gateway",
    r"^ray::ServeReplica": "replica",
    r"^ray::ProxyActor": "fallback proxy",
    r"^ray::": "Ray worker",
    r"serve_process": "motet serve",
}
"""What the title of a process has in it, and its name in the table of docs/security.md."""
PATHS = ("/", "/v1/models", "/openapi.json", "/livez", "/metrics", "/stats")
"""What is asked of a server that speaks HTTP."""
GUARDED = "/v1/models"
NUMBERS = {"/metrics", "/stats"}
CALLS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.serve.ASGIService/HandleRequest",
)
"""A call that each of Ray's own servers knows."""
TIMEOUT_S = 3.0
AT_ONCE = 16
REMEDY = "Let it listen at 127.0.0.1, or set keys: docs/security.md, Ports."


@dataclass(frozen=True, slots=True, order=True)
class Door:
    """A port on which a process of the service listens."""

    process: str
    address: str
    port: int

    @property
    def reachable(self) -> str:
        """An address of this machine at which it answers."""
        address = ip_address(self.address)
        if address.version == 6 and (mapped := address.ipv4_mapped):  # as Ray's gRPC servers have it
            return str(mapped)
        return ("::1" if address.version == 6 else "127.0.0.1") if address.is_unspecified else self.address


@dataclass(frozen=True, slots=True)
class DoorAnswer:
    """What a port answers without a key or token. `gives` says what somebody gets of it: nothing, numbers about requests,
    or more."""

    text: str
    gives: str = "nothing"


def examine(http: HttpAddress) -> list[Finding]:
    """A finding for each port of the service that listens at an address. Raises `MotetError` (unavailable) if none does."""
    pid = footprint.service_at(http.port)
    if pid is None:
        cause = f"No service of this user listens on port {http.port}."
        raise fail("unavailable", cause, "Start one with motet serve, or set MOTET_PORT.")
    doors = sorted(doors_of(footprint.processes_of(pid)), key=lambda door: (door.port != http.port, door))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(map(finding, doors, pool.map(answer_of, doors)))


def doors_of(processes: Iterable[psutil.Process]) -> set[Door]:
    """The TCP ports on which processes listen. Several processes may share one."""
    found = set()
    for process in processes:
        name = name_of(" ".join(command_line(process)))
        with suppress(psutil.Error):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add(Door(name, connection.laddr.ip, connection.laddr.port))
    return found


def name_of(title: str) -> str:
    """What a process is called in the table; of an unknown one the beginning of its title."""
    return next((name for pattern, name in PROCESSES.items() if re.search(pattern, title)), title[:100])


def finding(door: Door, answer: DoorAnswer) -> Finding:
    """Whether a port may stay as it is: others than this machine's users reach it only if it gives them nothing."""
    name = f"{door.process} {f'[{door.address}]' if ':' in door.address else door.address}:{door.port}"
    if is_loopback(door.address) or answer.gives == "nothing":
        return Finding("doors", name, "ok", answer.text)
    if answer.gives == "numbers":
        return Finding("doors", name, "info", f"{answer.text}; open to the network (edge.metrics_host)")
    return Finding("doors", name, "broken", f"{answer.text}; open to the network", REMEDY)


def answer_of(door: Door) -> DoorAnswer:
    """What the port answers."""
    for kind, secure in (("HTTP", False), ("HTTPS", True)):
        answered = dict(_statuses(door, secure=secure))
        if answered:
            return _described(kind, answered)
    return _grpc_answer(door)


def _described(kind: str, statuses: dict[str, int]) -> DoorAnswer:
    shown = ", ".join(f"{path} {status}" for path, status in statuses.items() if status != 404) or "404 for every path"
    given = {path for path, status in statuses.items() if status < 300}
    if statuses.get(GUARDED) in (401, 403):
        return DoorAnswer(f"{kind}: {shown}; /v1 asks for a key")
    gives = "nothing" if not given else "numbers" if given <= NUMBERS else "more"
    return DoorAnswer(f"{kind}: {shown}", gives)


def _statuses(door: Door, *, secure: bool) -> Iterator[tuple[str, int]]:
    """The status of each path; nothing of a server that does not speak HTTP."""
    for path in PATHS:
        connection = _connection(door, secure=secure)
        try:
            connection.request("GET", path)
            yield path, connection.getresponse().status
        except TimeoutError:
            continue  # another path may be faster
        except (OSError, HTTPException):
            return
        finally:
            connection.close()


def _connection(door: Door, *, secure: bool) -> HTTPConnection:
    if not secure:
        return HTTPConnection(door.reachable, door.port, timeout=TIMEOUT_S)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is asked by an address of this machine
    return HTTPSConnection(door.reachable, door.port, timeout=TIMEOUT_S, context=context)


NOT_LET_IN = {"UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
"""Statuses of calls that reached no handler."""


def _grpc_answer(door: Door) -> DoorAnswer:
    try:
        import grpc
    except ImportError:
        return DoorAnswer("no HTTP; grpcio is not installed, so it was not asked more", "more")
    place = f"[{door.reachable}]" if ":" in door.reachable else door.reachable
    with grpc.insecure_channel(f"{place}:{door.port}") as channel:
        codes = {_code(channel, call, grpc) for call in CALLS}
    if codes - NOT_LET_IN:  # also an argument that it refused: it has looked at it
        return DoorAnswer("gRPC: answers without Ray's token", "more")
    if "UNAUTHENTICATED" in codes:
        return DoorAnswer("gRPC: asks for Ray's token")
    return DoorAnswer("gRPC: no call of Ray" if codes == {"UNIMPLEMENTED"} else "nothing")


def _code(channel: Any, call: str, grpc: Any) -> str:
    try:
        channel.unary_unary(call)(b"", timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"
