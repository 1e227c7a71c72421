"""Other processes of this machine. A process that ends while it is examined is not an error."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

import psutil

REPLICA = "ServeReplica:motet:"
"""What stands before the deployment's name in the title of each replica's process, after `ray::`."""


def descendants(pid: int) -> list[psutil.Process]:
    """Its children and all processes below them; none if it has ended."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def command_line(process: psutil.Process) -> list[str]:
    """Its arguments; none if it has ended or belongs to another user."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def with_variable(name: str, value: str) -> Iterator[psutil.Process]:
    """Each running process whose environment has that value, whatever its parent is."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(name) == value and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def kill(processes: Collection[psutil.Process], patience_s: float) -> int:
    """Kills all processes and waits for them, up to `patience_s`. Returns their number.

    It does not touch a new process that has the number of one that ended.
    """
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running():
                process.kill()
    psutil.wait_procs(list(processes), timeout=patience_s)
    return len(processes)
