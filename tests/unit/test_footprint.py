"""The memory and CPU of a running service are summed over all its processes, found by port or by folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from serve_app.cli import doctor_service, footprint
from serve_app.config_file import HttpAddress

MEGABYTE = 2**20
WAITS = "import sys; print('up', flush=True); sys.stdin.read()"
SERVES = """
import subprocess, sys
code = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); sys.stdin.read()"
child = subprocess.Popen([sys.executable, "-c", code])
sys.stdin.read()
"""


@contextmanager
def program(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Python program, and the first line that it prints. It ends with its input."""
    command = [sys.executable, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **environment}) as running:
        assert running.stdin
        assert running.stdout
        family = psutil.Process(running.pid)
        try:
            yield running, running.stdout.readline().strip()
        finally:
            for child in family.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            running.stdin.close()


def test_memory_is_that_of_all_processes() -> None:
    with program("-c", f"held = bytearray(range(256)) * {64 * MEGABYTE // 256}; {WAITS}") as (running, _):
        alone = footprint.measure(footprint.processes_of(running.pid), 0.0)
        both = footprint.measure([*footprint.processes_of(running.pid), psutil.Process()], 0.0)
    assert alone.processes == 1
    assert alone.memory_bytes > 64 * MEGABYTE
    assert both.processes == 2
    assert both.memory_bytes > alone.memory_bytes


def test_time_is_what_the_processes_use_while_they_are_watched() -> None:
    with program("-c", WAITS) as (idle, _), program("-c", "print('up', flush=True)\nwhile True: pass") as (busy, _):
        resting = footprint.measure(footprint.processes_of(idle.pid), 0.3)
        working = footprint.measure(footprint.processes_of(busy.pid), 0.3)
        busy.kill()
    assert resting.core_share < working.core_share <= 1.1


def test_a_process_with_another_parent_is_found_by_the_services_folder(tmp_path: Path) -> None:
    folder = {footprint.OWN_FOLDER: str(tmp_path)}
    with program("-c", WAITS, **folder) as (one, _), program("-c", WAITS, **folder) as (other, _):
        assert {process.pid for process in footprint.processes_of(one.pid)} == {one.pid, other.pid}


def test_a_process_that_ended_takes_nothing() -> None:
    with program("-c", WAITS) as (running, _):
        processes = footprint.processes_of(running.pid)
    assert footprint.measure(processes, 0.0) == footprint.Footprint(0, 0, 0.0)
    assert footprint.processes_of(running.pid) == []


def test_the_service_is_found_by_its_port(tmp_path: Path) -> None:
    (tmp_path / "serves.py").write_text(SERVES)
    with program(str(tmp_path / "serves.py"), footprint.SERVER_MODULE) as (server, port):
        assert footprint.service_at(int(port)) in (server.pid, os.getpid())
        found = doctor_service.running(HttpAddress(port=int(port)))
    assert found.state == "ok"
    assert "of a core" in found.detail


def test_another_program_at_the_port_is_not_the_service() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert footprint.service_at(listening.getsockname()[1]) is None


def test_doctor_says_that_none_runs(free: int) -> None:
    found = doctor_service.running(HttpAddress(port=free))
    assert (found.state, found.remedy) == ("absent", "motet serve")


@pytest.fixture
def free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
