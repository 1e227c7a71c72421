"""`threads: auto`: how many threads a replica's engine uses where it comes up.

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
class Offer:
    """The CPUs that a process may use, by its affinity, its container's quota and its Ray node. None means no limit."""

    cores: int
    quota: float | None = None
    node: float | None = None

    @property
    def cpus(self) -> float:
        """The least of them."""
        return min(limit for limit in (float(self.cores), self.quota, self.node) if limit is not None)

    def __str__(self) -> str:
        limits = [f"{self.cores} cores"]
        limits += [] if self.quota is None else [f"{self.quota:g} CPUs of the container"]
        limits += [] if self.node is None else [f"{self.node:g} CPUs of the Ray node"]
        return ", ".join(limits)


def threads_of(wanted: Threads, offer: Callable[[], Offer], reserved_cpus: float) -> int:
    """The number of threads; `offer` is asked for `auto` only. `reserved_cpus` are those of other placements."""
    if wanted != "auto":
        return wanted
    return max(1, math.floor(offer().cpus - reserved_cpus))


def here(node_cpus: float | None = None, system: System = OWN_SYSTEM) -> Offer:
    """The CPUs that this process may use; `node_cpus` bounds them on a Ray node."""
    try:
        cores = len(system.affinity())
    except OSError:  # macOS
        cores = os.cpu_count() or 1
    return Offer(cores, cpu_limit(system), node_cpus)
