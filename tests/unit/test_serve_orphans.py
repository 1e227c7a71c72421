"""`motet serve` as the first process of a container, which becomes the parent of all processes that lose theirs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from serve_app.cli.serve import _signals_for_program

LONGEST_S = 30
COLLECTED, ZOMBIE = 7, 8

LEAVES_AN_ORPHAN = f"""
import os, sys, time
from pathlib import Path

reading, writing = os.pipe()
if not (parent := os.fork()):
    if orphan := os.fork():
        os.write(writing, str(orphan).encode())
    os._exit(0)
os.waitpid(parent, 0)
orphan, deadline = int(os.read(reading, 20)), time.monotonic() + {LONGEST_S}
while Path(f"/proc/{{orphan}}").exists() and time.monotonic() < deadline:
    time.sleep(0.05)
sys.exit({ZOMBIE} if Path(f"/proc/{{orphan}}").exists() else {COLLECTED})
"""
FIRST_PROCESS = """
import ctypes, subprocess, sys
from serve_app.cli.serve import collect_until_end

PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
sys.exit(collect_until_end(subprocess.Popen([sys.executable, "-c", sys.argv[1]])))
"""
FAILED = 3
WAITS_FOR_A_PROGRAM = f"""
import subprocess, sys
from serve_app.cli.serve import _signals_for_program, collect_until_end

with _signals_for_program():
    status = collect_until_end(subprocess.Popen([sys.executable, "-c", "import sys; sys.exit({FAILED})"]))
sys.exit(status)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is of Linux")
def test_a_process_that_lost_its_parent_is_collected() -> None:
    ended = subprocess.run([sys.executable, "-c", FIRST_PROCESS, LEAVES_AN_ORPHAN], timeout=2 * LONGEST_S)
    assert ended.returncode == COLLECTED


def test_the_exit_status_is_known_though_the_starter_ignores_ended_children() -> None:
    ignoring = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    command = [sys.executable, "-c", f"{ignoring}{WAITS_FOR_A_PROGRAM}"]
    ended = subprocess.run(command, timeout=LONGEST_S, capture_output=True)
    assert (ended.returncode, ended.stderr) == (FAILED, b"")


def test_a_signal_to_a_program_that_was_just_collected_is_dropped() -> None:
    program = subprocess.Popen([sys.executable, "-c", ""])
    os.waitpid(program.pid, 0)
    with _signals_for_program() as pass_signals_to:
        pass_signals_to(program)
        signal.raise_signal(signal.SIGTERM)
    program.returncode = 0


def test_a_signal_that_comes_before_the_program_is_sent_to_it() -> None:
    with _signals_for_program() as pass_signals_to:
        signal.raise_signal(signal.SIGTERM)
        program = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({LONGEST_S})"])
        pass_signals_to(program)
        assert program.wait(LONGEST_S) == -signal.SIGTERM
