"""The most memory that each process of a running service takes while something else is measured."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten

import psutil

from deployments.errors import fail
from serve_app.bench.running_service import RunningProgram
from serve_app.cli import footprint
from serve_app.cli.processes import command_line

LOOK_EVERY_S = 0.5


def title_of(process: psutil.Process) -> str:
    """What it is called in lists of processes."""
    return shorten(" ".join(command_line(process)), 60, placeholder="...")


@contextmanager
def memory_peaks(service: RunningProgram) -> Iterator[dict[psutil.Process, int]]:
    """The most memory of each process of the service while the context lasts, in bytes (PSS)."""
    peaks: dict[psutil.Process, int] = {}
    pid = footprint.service_at(service.port)
    if pid is None:
        raise fail("engine", f"Found no service process that listens on port {service.port}.")
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_EVERY_S):
            for process in footprint.processes_of(pid):
                with contextlib.suppress(psutil.Error):
                    peaks[process] = max(peaks.get(process, 0), footprint.memory_bytes(process))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield peaks
    finally:
        over.set()
        watcher.join()
