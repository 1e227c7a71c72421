"""How much memory and processor time a running service takes: all of its processes, Ray's and HAProxy's included."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil

from serve_app.cli.processes import command_line, descendants, with_variable

OWN_FOLDER = "RAY_SERVE_HAPROXY_SERVER_STATE_BASE"
"""The variable that names the folder of a service. All of its processes have it, HAProxy included."""
SERVER_MODULE = "serve_app.cli.serve_process"
OWN_PACKAGES = ("motet", "serve_app")


@dataclass(frozen=True, slots=True)
class Footprint:
    """`memory_bytes` is the proportional set size (PSS): a page that several processes share counts once, in parts.
    `core_share` is the part of one core that they used in the time measured."""

    processes: int
    memory_bytes: int
    core_share: float


def measure(processes: Sequence[psutil.Process], seconds: float) -> Footprint:
    """What they take now, and the processor time that they use in the next `seconds`."""
    started, before = time.perf_counter(), {process: _cpu_seconds(process) for process in processes}
    time.sleep(seconds)
    passed = time.perf_counter() - started
    used = sum(max(_cpu_seconds(process) - earlier, 0.0) for process, earlier in before.items())
    memory = [memory_bytes(process) for process in processes]
    return Footprint(sum(each > 0 for each in memory), sum(memory), used / passed)


def processes_of(pid: int) -> list[psutil.Process]:
    """The process and all below it. HAProxy is found by its environment: after a reload it has another parent."""
    try:
        found = [psutil.Process(pid)]
    except psutil.Error:
        return []
    found += descendants(pid)
    folders = {folder for process in found if (folder := _own_folder(process))}
    return list(dict.fromkeys([*found, *(kin for folder in folders for kin in with_variable(OWN_FOLDER, folder))]))


def service_at(port: int) -> int | None:
    """The number of the first process of the Motet service that listens at a port of this machine; None where there is none,
    or where it belongs to another user."""
    for listener in _listeners(port):
        for process in _related(listener):
            if SERVER_MODULE in command_line(process):
                return _launcher_of(process)
    return None


def _listeners(port: int) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
            if listens and connection.pid:
                yield psutil.Process(connection.pid)


def _related(process: psutil.Process) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        yield from process.parents()
    if folder := _own_folder(process):
        yield from with_variable(OWN_FOLDER, folder)


def _launcher_of(server: psutil.Process) -> int:
    """`motet serve` is the server's parent, and belongs to the service."""
    parent = server.parent()
    words = command_line(parent) if parent else []
    ours = any(package in word for word in words for package in OWN_PACKAGES)
    return parent.pid if parent and ours else server.pid


def _own_folder(process: psutil.Process) -> str:
    try:
        return process.environ().get(OWN_FOLDER, "")
    except psutil.Error:
        return ""


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def memory_bytes(process: psutil.Process) -> int:
    """Its PSS; where the system does not know it, what the process alone holds (USS)."""
    try:
        memory = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(memory, "pss", memory.uss))
