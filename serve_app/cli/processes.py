"""Other processes of this machine, any of which may end while it is looked at: one that has ended is no error here."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

import psutil


def descendants(pid: int) -> list[psutil.Process]:
    """Of that process, however deep; none when it has ended."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def command_line(process: psutil.Process) -> list[str]:
    """Its words; none when it has ended or belongs to somebody else."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def with_variable(name: str, value: str) -> Iterator[psutil.Process]:
    """Every running process whose environment has that value, whoever its parent is by now."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(name) == value and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def kill(processes: Collection[psutil.Process], patience_s: float) -> int:
    """Ends them all at once and waits for them. Returns how many they were.

    One that has ended is left alone, even where another process has its number now.
    """
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running():
                process.kill()
    psutil.wait_procs(list(processes), timeout=patience_s)
    return len(processes)
