"""What the processes of a service hold, again and again while it works, and how much more it is at the end of a run.

Memory under load rises and falls with what is under way. What grows is the low-water mark: the least that a process holds in
a part of the run. It is compared between the beginning and the end of the second half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import psutil

from serve_app.bench.service_processes import ServiceProcesses, title_of
from serve_app.cli import footprint

PARTS = 8
"""The run is divided into as many parts. The fifth one begins the second half."""
LEAST_SAMPLES = 2
"""Samples of a part; with fewer nothing is said about a process."""
IGNORED_BYTES = 1_000_000
"""Growth of less than a megabyte is not counted: heaps grow by blocks."""


@dataclass(slots=True)
class ProcessHistory:
    """A process: its title, and at each time (s) the memory that it holds (bytes, PSS), its open files and its threads."""

    title: str
    times_s: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    files: list[float] = field(default_factory=list)
    threads: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Growth:
    """How much more a process holds at the end than in the middle: of its memory in percent, open files and threads."""

    title: str
    memory_percent: float
    from_bytes: float
    files: float
    threads: float


class GrowthWatch:
    """Samples all processes of a service."""

    def __init__(self, processes: ServiceProcesses) -> None:
        self._processes = processes
        self.histories: dict[psutil.Process, ProcessHistory] = {}

    def sample(self, at_s: float) -> None:
        """Looks once, `at_s` seconds after the beginning."""
        for process in self._processes.all():
            with suppress(psutil.Error):
                history = self.histories.setdefault(process, ProcessHistory(title_of(process)))
                memory, files, threads = footprint.memory_bytes(process), process.num_fds(), process.num_threads()
                history.title = title_of(process)
                history.times_s.append(at_s)
                history.memory.append(memory)
                history.files.append(files)
                history.threads.append(threads)

    def growths(self, length_s: float) -> list[Growth]:
        """The growth of each process that lived through the second half of a run of `length_s`."""
        found = (growth_of(history, length_s) for history in self.histories.values())
        return [growth for growth in found if growth is not None]

    def curves(self) -> Mapping[str, list[tuple[float, float]]]:
        """The memory of each process in MB over the minutes."""
        return {
            f"{history.title} ({process.pid})": [
                (at_s / 60, used / 1e6) for at_s, used in zip(history.times_s, history.memory, strict=True)
            ]
            for process, history in self.histories.items()
        }


def growth_of(history: ProcessHistory, length_s: float) -> Growth | None:
    """How much a process grew in the second half of a run of `length_s`; None if it did not live through it."""
    times = np.array(history.times_s)
    part_s = length_s / PARTS
    middle = (times >= length_s / 2) & (times < length_s / 2 + part_s)
    end = times >= length_s - part_s
    if min(np.count_nonzero(middle), np.count_nonzero(end)) < LEAST_SAMPLES:
        return None

    def rise(values: Sequence[float]) -> tuple[float, float]:
        """The low-water mark in the middle, and how much higher it is at the end."""
        all_values = np.array(values)
        low = float(all_values[middle].min())
        return low, float(all_values[end].min()) - low

    before, more = rise(history.memory)
    grown = 100 * more / before if more > IGNORED_BYTES and before else 0.0
    return Growth(history.title, grown, before, rise(history.files)[1], rise(history.threads)[1])
