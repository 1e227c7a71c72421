"""Real-time CPU scheduling of the thread that an engine lives on.

Linux schedules threads, so only the calling one is changed. Threads that it starts later inherit what it has: call `apply`
before the engine is loaded, and the threads of its own pool follow.
"""

from __future__ import annotations

import os
import resource
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import Field

from deployments.settings import StrictModel

CAP_SYS_NICE = 1 << 23
"""linux/capability.h"""

MOST_PRIORITY = 99
LEAVE_FREE = "0"

RIGHTS = (
    "It needs CAP_SYS_NICE or an rtprio limit of at least {priority}: `ulimit -r {priority}` (or `rtprio` in"
    " /etc/security/limits.conf), systemd `CPUSchedulingPolicy=fifo` with `LimitRTPRIO={priority}`, or Docker"
    " `--cap-add SYS_NICE --ulimit rtprio={priority}`."
)


class CpuScheduling(StrictModel):
    """How the thread of a replica's engine is scheduled."""

    affinity: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """The cores that it may run on. Empty: all cores."""
    fifo_priority: Annotated[int, Field(ge=1, le=MOST_PRIORITY)] | None = None
    """Its SCHED_FIFO priority. Without one it has ordinary scheduling."""
    nice: Annotated[int, Field(ge=-20, le=19)] = 0
    """Its niceness, where it has ordinary scheduling or real-time scheduling is not permitted."""


@dataclass(frozen=True, slots=True)
class AppliedScheduling:
    """The scheduling of a thread. `affinity` is empty if it is not known; `priority` is that of SCHED_FIFO."""

    affinity: tuple[int, ...]
    policy: Literal["fifo", "ordinary"]
    priority: int | None
    nice: int
    warnings: tuple[str, ...]


class System(Protocol):
    """System calls for the calling thread. Each raises `OSError` if it is not permitted or the platform does not have it."""

    def set_affinity(self, cores: tuple[int, ...]) -> None:
        """Binds the thread to cores."""

    def affinity(self) -> tuple[int, ...]:
        """The cores that the thread may run on."""

    def set_fifo(self, priority: int) -> None:
        """Schedules the thread with SCHED_FIFO."""

    def set_nice(self, nice: int) -> None:
        """Sets the thread's niceness."""

    def nice(self) -> int:
        """The thread's niceness."""

    def rtprio_limit(self) -> int:
        """The highest SCHED_FIFO priority that is permitted without CAP_SYS_NICE; 0 for none."""

    def read(self, path: str) -> str:
        """The text of a file of /proc or /sys, stripped."""


class OwnSystem:
    """The machine that this runs on."""

    def set_affinity(self, cores: tuple[int, ...]) -> None:
        """Binds the thread to cores."""
        _must_exist("sched_setaffinity")
        os.sched_setaffinity(0, cores)

    def affinity(self) -> tuple[int, ...]:
        """The cores that the thread may run on."""
        _must_exist("sched_getaffinity")
        return tuple(sorted(os.sched_getaffinity(0)))

    def set_fifo(self, priority: int) -> None:
        """Schedules the thread with SCHED_FIFO."""
        _must_exist("sched_setscheduler")
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))

    def set_nice(self, nice: int) -> None:
        """Sets the thread's niceness."""
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)

    def nice(self) -> int:
        """The thread's niceness."""
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def rtprio_limit(self) -> int:
        """The highest SCHED_FIFO priority that is permitted without CAP_SYS_NICE; 0 for none."""
        if not hasattr(resource, "RLIMIT_RTPRIO"):
            raise OSError("this platform has no RLIMIT_RTPRIO")
        soft, _ = resource.getrlimit(resource.RLIMIT_RTPRIO)
        return MOST_PRIORITY if soft == resource.RLIM_INFINITY else min(soft, MOST_PRIORITY)

    def read(self, path: str) -> str:
        """The text of a file of /proc or /sys, stripped."""
        return Path(path).read_text().strip()


OWN_SYSTEM = OwnSystem()


def apply(settings: CpuScheduling, system: System = OWN_SYSTEM) -> AppliedScheduling:
    """Schedules the calling thread as far as it is permitted, and returns the result. Missing rights are warnings."""
    warnings = _bind(settings.affinity, system)
    policy: Literal["fifo", "ordinary"] = "ordinary"
    if settings.fifo_priority is not None:
        try:
            system.set_fifo(settings.fifo_priority)
            policy = "fifo"
        except OSError as error:
            warnings.append(_no_fifo(settings, error, system))
    if policy == "ordinary":
        warnings += _be_nice(settings.nice, system)
    priority = settings.fifo_priority if policy == "fifo" else None
    return AppliedScheduling(_affinity(system), policy, priority, _nice(system), tuple(warnings))


def isolation_advice(cores: int, system: System = OWN_SYSTEM) -> list[str]:
    """Which real-time scheduling is permitted here, and how to isolate some of the machine's `cores` for it: sentences for
    `motet doctor`."""
    return [_permitted(system), _throttling(system), *_isolation(cores, system), *_container(cores, system)]


def _must_exist(call: str) -> None:
    if not hasattr(os, call):
        raise OSError(f"this platform has no {call}")


# --- What is applied


def _bind(cores: tuple[int, ...], system: System) -> list[str]:
    if not cores:
        return []
    try:
        system.set_affinity(cores)
    except OSError as error:
        return [f"The thread could not be bound to cores {_ranges(cores)} ({error}). {_may_use(system)}"]
    # Linux ignores cores outside the cpuset without an error.
    if missing := set(cores) - set(_affinity(system)):
        return [f"The thread was not bound to cores {_ranges(sorted(missing))}. {_may_use(system)}"]
    return []


def _no_fifo(settings: CpuScheduling, error: OSError, system: System) -> str:
    rights = RIGHTS.format(priority=settings.fifo_priority)
    limit = f" The rtprio limit is {limit}." if (limit := _rtprio_limit(system)) is not None else ""
    cause = f"SCHED_FIFO with priority {settings.fifo_priority} was not possible ({error})"
    return f"{cause}; the thread runs with nice {settings.nice} instead. {rights}{limit}"


def _be_nice(nice: int, system: System) -> list[str]:
    if _nice(system) == nice:
        return []
    try:
        system.set_nice(nice)
    except OSError as error:
        return [f"Nice {nice} was not possible ({error}). A lower value than before needs CAP_SYS_NICE or `ulimit -e`."]
    return []


def _may_use(system: System) -> str:
    return f"It may use {_ranges(_affinity(system)) or 'every core'}."


def _affinity(system: System) -> tuple[int, ...]:
    try:
        return system.affinity()
    except OSError:
        return ()


def _nice(system: System) -> int:
    try:
        return system.nice()
    except OSError:
        return 0


def _rtprio_limit(system: System) -> int | None:
    try:
        return system.rtprio_limit()
    except OSError:
        return None


def _ranges(cores: tuple[int, ...] | list[int]) -> str:
    """`0-2,5`, as the kernel writes it."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


# --- What is advised


def _permitted(system: System) -> str:
    limit = _rtprio_limit(system)
    if limit is None:
        return "SCHED_FIFO is not available on this platform; an engine's thread runs with nice."
    if _has_sys_nice(system):
        return f"SCHED_FIFO is permitted up to priority {MOST_PRIORITY} (CAP_SYS_NICE)."
    if limit > 0:
        return f"SCHED_FIFO is permitted up to priority {limit} (`ulimit -r`)."
    return f"SCHED_FIFO is not permitted. {RIGHTS.format(priority=MOST_PRIORITY)}"


def _has_sys_nice(system: System) -> bool:
    lines = _read(system, "/proc/self/status").splitlines()
    masks = [line.split(":")[1] for line in lines if line.startswith("CapEff:")]
    return any(int(mask, 16) & CAP_SYS_NICE for mask in masks)


def _throttling(system: System) -> str:
    """The kernel's own guard against a real-time thread that never sleeps."""
    runtime, period = (_read(system, f"/proc/sys/kernel/sched_rt_{name}_us") for name in ("runtime", "period"))
    if runtime == "-1":
        return (
            "Real-time threads are not throttled (sched_rt_runtime_us is -1): one that never sleeps freezes its core."
        )
    if not (runtime.isdigit() and period.isdigit()):
        return "The kernel does not say how it throttles real-time threads (sched_rt_runtime_us)."
    share = int(runtime) / max(1, int(period))
    return f"Real-time threads get at most {share:.0%} of the time (sched_rt_runtime_us), the rest is for all others."


def _isolation(cores: int, system: System) -> list[str]:
    isolated = _read(system, "/sys/devices/system/cpu/isolated")
    now = f"Cores isolated by the kernel: {isolated or 'none'}."
    if cores < 2:
        return [now, "With a single core nothing can be isolated: leave `fifo_priority` unset, or others starve."]
    engine = _ranges(list(range(1, cores)))
    return [
        now,
        f"To isolate cores for engines from the start of the machine: kernel parameters isolcpus={engine} nohz_full={engine}"
        f" rcu_nocbs={engine}, then `affinity` within {engine}. Core {LEAVE_FREE} is left for everything else.",
        f"To isolate them without a restart: `systemctl set-property --runtime system.slice AllowedCPUs={LEAVE_FREE}`, the"
        f" same for user.slice, and Motet in a slice of its own with AllowedCPUs=0-{cores - 1}; with cgroup v1 `cset shield"
        f" --cpu {engine}`.",
    ]


def _container(cores: int, system: System) -> list[str]:
    lines = []
    mine = _affinity(system)
    if mine and len(mine) < cores:
        lines.append(
            f"This process may only use cores {_ranges(mine)} (cpuset or affinity): `affinity` must be among them."
        )
    if (limit := cpu_limit(system)) is not None:
        lines.append(f"The container may use {limit:g} CPUs (cgroup quota): beyond that its ordinary threads are held.")
    if _read(system, "/sys/fs/cgroup/cpu/cpu.rt_runtime_us") == "0":
        lines.append(
            "The cgroup has no real-time budget (cpu.rt_runtime_us is 0): SCHED_FIFO fails even with the right."
            " Docker: `--cpu-rt-runtime`."
        )
    return lines or ["No container limit on the CPU was found."]


def cpu_limit(system: System) -> float | None:
    """CPUs of the cgroup's quota, version 2 or 1; None without one."""
    quota, _, period = _read(system, "/sys/fs/cgroup/cpu.max").partition(" ")
    if not quota:
        quota, period = (_read(system, f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _read(system: System, path: str) -> str:
    try:
        return system.read(path)
    except OSError:
        return ""
