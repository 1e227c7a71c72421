"""Inspecting other processes while they end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from serve_app.cli import processes

WAITS = "import sys; print(flush=True); sys.stdin.read()"
MARK = "MOTET_TEST_OF_PROCESSES"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """One that waits for the end of its input; it has started."""
    command = [sys.executable, "-c", WAITS]
    environment = {**os.environ, MARK: "here"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as program:
        assert program.stdout is not None
        program.stdout.readline()
        yield program
        program.kill()


def ended(child: subprocess.Popen[bytes]) -> None:
    """Its process is a zombie: it has ended, and its parent has not asked for its status."""
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


def test_a_running_one_is_found_and_described(child: subprocess.Popen[bytes]) -> None:
    assert [process.pid for process in processes.with_variable(MARK, "here")] == [child.pid]
    assert list(processes.with_variable(MARK, "elsewhere")) == []
    assert child.pid in [process.pid for process in processes.descendants(os.getpid())]
    assert processes.command_line(psutil.Process(child.pid))[1:] == ["-c", WAITS]


def test_one_that_ends_meanwhile_is_no_error(child: subprocess.Popen[bytes]) -> None:
    process = psutil.Process(child.pid)
    ended(child)
    assert process.status() == psutil.STATUS_ZOMBIE
    assert processes.command_line(process) == []
    assert list(processes.with_variable(MARK, "here")) == []
    assert processes.kill([process], patience_s=1.0) == 1


def test_one_that_is_gone_is_no_error(child: subprocess.Popen[bytes]) -> None:
    process = psutil.Process(child.pid)
    child.kill()
    child.wait()
    assert processes.command_line(process) == []
    assert processes.descendants(child.pid) == []
    assert processes.kill([process], patience_s=1.0) == 1


def test_all_are_ended_and_waited_for(child: subprocess.Popen[bytes]) -> None:
    process = psutil.Process(child.pid)
    assert processes.kill([process], patience_s=10.0) == 1
    assert not process.is_running()
