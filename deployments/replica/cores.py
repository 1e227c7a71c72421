"""`threads: auto`: how many threads the engine of a replica uses on its machine.

The rule: the cores that the process may run on, at most the CPUs of the container's quota and those that its Ray node
offers, less the whole CPUs that other placements on the same hardware reserve for themselves; at least one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from deployments.replica.cpu_scheduling import OWN_SYSTEM, System, cpu_limit

Threads = int | Literal["auto"]


@dataclass(frozen=True, slots=True)
class CpuOffer:
    """The CPUs that a process may use: by its affinity, its container's quota and its Ray node. None means unlimited."""

    cores: int
    quota: float | None = None
    node: float | None = None

    @property
    def cpus(self) -> float:
        """The lowest of the three limits."""
        return min(limit for limit in (float(self.cores), self.quota, self.node) if limit is not None)

    def __str__(self) -> str:
        limits = [f"{self.cores} cores"]
        limits += [] if self.quota is None else [f"{self.quota:g} CPUs of the container"]
        limits += [] if self.node is None else [f"{self.node:g} CPUs of the Ray node"]
        return ", ".join(limits)


def threads_of(wanted: Threads, offer: Callable[[], CpuOffer], reserved_cpus: float) -> int:
    """The number of threads. For "auto" it is what `offer` returns, minus the `reserved_cpus` of other placements."""
    if wanted != "auto":
        return wanted
    return max(1, math.floor(offer().cpus - reserved_cpus))


def here(node_cpus: float | None = None, system: System = OWN_SYSTEM) -> CpuOffer:
    """The CPUs that this process may use, at most `node_cpus` on a Ray node."""
    try:
        cores = len(system.affinity())
    except OSError:  # macOS
        cores = os.cpu_count() or 1
    return CpuOffer(cores, cpu_limit(system), node_cpus)
