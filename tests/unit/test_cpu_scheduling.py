"""CPU scheduling uses what the machine permits and reports what it refuses. The tests need no privileges."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from pydantic import ValidationError

from deployments.replica.cpu_scheduling import AppliedScheduling, CpuScheduling, OwnSystem, apply, isolation_advice

NOTHING_SPECIAL = CpuScheduling(affinity=(), fifo_priority=None, nice=0)
REAL_TIME = CpuScheduling(affinity=(2, 3), fifo_priority=85, nice=-5)
FILES = {
    "/proc/self/status": "Name:\tmotet\nCapEff:\t0000000000000000",
    "/proc/sys/kernel/sched_rt_runtime_us": "950000",
    "/proc/sys/kernel/sched_rt_period_us": "1000000",
    "/sys/devices/system/cpu/isolated": "",
}


@dataclass
class Machine:
    """A machine of four cores, and what it permits."""

    may_fifo: bool = True
    least_nice: int = -20
    cpuset: tuple[int, ...] = (0, 1, 2, 3)
    rtprio: int | None = 0
    files: Mapping[str, str] = field(default_factory=lambda: FILES)
    calls: list[str] = field(default_factory=list)
    bound: tuple[int, ...] = ()
    niceness: int = 0

    def set_affinity(self, cores: tuple[int, ...]) -> None:
        """As Linux does: cores outside the cpuset are dropped, and none left is an error."""
        self.calls.append("affinity")
        if not set(cores) & set(self.cpuset):
            raise OSError(22, "Invalid argument")
        self.bound = tuple(core for core in cores if core in self.cpuset)

    def affinity(self) -> tuple[int, ...]:
        """What is bound, or everything."""
        return self.bound or self.cpuset

    def set_fifo(self, priority: int) -> None:
        """Where it is permitted."""
        self.calls.append(f"fifo {priority}")
        if not self.may_fifo:
            raise PermissionError(1, "Operation not permitted")

    def set_nice(self, nice: int) -> None:
        """Where it is permitted."""
        self.calls.append(f"nice {nice}")
        if nice < self.least_nice:
            raise PermissionError(13, "Permission denied")
        self.niceness = nice

    def nice(self) -> int:
        """As it was set."""
        return self.niceness

    def rtprio_limit(self) -> int:
        """None stands for a platform without it."""
        if self.rtprio is None:
            raise OSError("this platform has no RLIMIT_RTPRIO")
        return self.rtprio

    def read(self, path: str) -> str:
        """A file of the machine."""
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path]


class Mac(Machine):
    """Neither affinity nor real-time classes for a thread."""

    def set_affinity(self, cores: tuple[int, ...]) -> None:
        """Not there."""
        raise OSError("this platform has no sched_setaffinity")

    def affinity(self) -> tuple[int, ...]:
        """Not there."""
        raise OSError("this platform has no sched_getaffinity")

    def set_fifo(self, priority: int) -> None:
        """Not there."""
        raise OSError("this platform has no sched_setscheduler")


def test_everything_that_is_permitted_is_applied() -> None:
    machine = Machine()
    assert apply(REAL_TIME, machine) == AppliedScheduling((2, 3), "fifo", 85, 0, ())
    assert machine.calls == ["affinity", "fifo 85"]


def test_nothing_is_touched_that_was_not_asked_for() -> None:
    machine = Machine()
    assert apply(NOTHING_SPECIAL, machine) == AppliedScheduling((0, 1, 2, 3), "ordinary", None, 0, ())
    assert machine.calls == []


def test_without_the_right_it_falls_back_to_nice_and_says_what_is_needed() -> None:
    machine = Machine(may_fifo=False, rtprio=50)
    applied = apply(REAL_TIME, machine)
    assert (applied.policy, applied.priority, applied.nice) == ("ordinary", None, -5)
    assert machine.calls == ["affinity", "fifo 85", "nice -5"]
    (warning,) = applied.warnings
    for words in ("priority 85", "Operation not permitted", "nice -5", "CAP_SYS_NICE", "ulimit -r 85", "limit is 50"):
        assert words in warning
    assert "CPUSchedulingPolicy=fifo" in warning


def test_where_not_even_nice_is_permitted_the_thread_stays_as_it_was() -> None:
    applied = apply(REAL_TIME, Machine(may_fifo=False, least_nice=0))
    assert (applied.policy, applied.nice) == ("ordinary", 0)
    assert "Nice -5 was not possible" in applied.warnings[1]


def test_cores_that_are_not_there_are_named() -> None:
    applied = apply(CpuScheduling(affinity=(3, 6, 7), fifo_priority=None, nice=0), Machine())
    assert applied.affinity == (3,)
    assert applied.warnings == ("The thread was not bound to cores 6-7. It may use 3.",)


def test_with_none_of_the_cores_the_thread_keeps_those_it_has() -> None:
    applied = apply(CpuScheduling(affinity=(6,), fifo_priority=10, nice=0), Machine())
    assert (applied.affinity, applied.policy) == ((0, 1, 2, 3), "fifo")
    assert "Invalid argument" in applied.warnings[0]
    assert "It may use 0-3." in applied.warnings[0]


def test_a_platform_without_the_calls_is_no_error() -> None:
    machine = Mac(rtprio=None)
    applied = apply(REAL_TIME, machine)
    assert (applied.affinity, applied.policy, applied.priority, applied.nice) == ((), "ordinary", None, -5)
    assert len(applied.warnings) == 2
    assert "It may use every core." in applied.warnings[0]
    assert "not available on this platform" in isolation_advice(8, machine)[0]


def test_the_calls_change_the_calling_thread_and_no_other() -> None:
    """The real calls, with what everyone may do: one core less, and a higher niceness."""
    system = OwnSystem()
    before, core = os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), min(os.sched_getaffinity(0))
    wanted = CpuScheduling(affinity=(core,), fifo_priority=None, nice=min(19, before + 1))
    with ThreadPoolExecutor(1) as pool:
        applied = pool.submit(apply, wanted, system).result()
        assert applied == AppliedScheduling((core,), "ordinary", None, wanted.nice, ())
        assert pool.submit(os.sched_getaffinity, 0).result() == {core}
    assert system.nice() == before


def test_the_real_machine_is_read() -> None:
    lines = isolation_advice(os.cpu_count() or 1)
    assert all(lines) and "SCHED_FIFO" in lines[0]


@pytest.mark.parametrize(
    ("capabilities", "rtprio", "words"),
    [
        pytest.param("0000000000000000", 0, "not permitted", id="nothing"),
        pytest.param("0000000000000000", 80, "up to priority 80 (`ulimit -r`)", id="limit"),
        pytest.param("0000000000800000", 0, "up to priority 99 (CAP_SYS_NICE)", id="capability"),
        pytest.param("000001ffff7fffff", 0, "not permitted", id="every other capability"),
    ],
)
def test_the_doctor_says_what_is_permitted(capabilities: str, rtprio: int, words: str) -> None:
    files = {**FILES, "/proc/self/status": f"CapPrm:\tffffffffffffffff\nCapEff:\t{capabilities}"}
    assert words in isolation_advice(4, Machine(rtprio=rtprio, files=files))[0]


def test_the_doctor_says_how_to_isolate_cores() -> None:
    text = "\n".join(isolation_advice(4, Machine()))
    for words in (
        "isolated by the kernel: none",
        "isolcpus=1-3 nohz_full=1-3",
        "AllowedCPUs=0",
        "cset shield --cpu 1-3",
    ):
        assert words in text
    assert "at most 95% of the time" in text
    assert "No container limit" in text


def test_isolated_cores_are_named() -> None:
    machine = Machine(files={**FILES, "/sys/devices/system/cpu/isolated": "2-3"})
    assert "Cores isolated by the kernel: 2-3." in isolation_advice(4, machine)


def test_a_single_core_is_not_isolated() -> None:
    text = "\n".join(isolation_advice(1, Machine(cpuset=(0,))))
    assert "isolcpus" not in text
    assert "leave `fifo_priority` unset" in text


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"/sys/fs/cgroup/cpu.max": "150000 100000"}, "may use 1.5 CPUs"),
        ({"/sys/fs/cgroup/cpu.max": "max 100000"}, "No container limit"),
        (
            {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            "may use 2 CPUs",
        ),
        (
            {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            "No container limit",
        ),
        ({"/sys/fs/cgroup/cpu/cpu.rt_runtime_us": "0"}, "no real-time budget"),
        ({"/proc/sys/kernel/sched_rt_runtime_us": "-1"}, "freezes its core"),
    ],
)
def test_limits_are_told(files: Mapping[str, str], words: str) -> None:
    assert words in "\n".join(isolation_advice(4, Machine(files={**FILES, **files})))


def test_a_cpuset_is_told() -> None:
    assert "may only use cores 1,3" in "\n".join(isolation_advice(4, Machine(cpuset=(1, 3))))


@pytest.mark.parametrize(
    "wrong",
    [{"fifo_priority": 0}, {"fifo_priority": 100}, {"nice": 20}, {"nice": -21}, {"affinity": (-1,)}, {"cores": 1}],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CpuScheduling.model_validate({**NOTHING_SPECIAL.model_dump(), **wrong})
