"""What can go wrong with a running service, made to happen: processes that die or stand still, and what runs out."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from deployments.errors import fail
from serve_app.bench.mixed_requests import Kind
from serve_app.bench.running_service import RunningProgram
from serve_app.bench.service_processes import ServiceProcesses

End = Callable[[], None]


def nothing() -> None:
    """Ends a fault that ends by itself."""


@dataclass(frozen=True, slots=True)
class FaultyService:
    """The service that has the faults. `weights` is a file that its separator loads."""

    service: RunningProgram
    processes: ServiceProcesses
    weights: Path


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong. `begin` makes it happen, and returns what ends it after `lasts_s`.

    `needs` are the kinds of requests that cannot be answered meanwhile: they must be refused soon, and answered afterwards.
    """

    name: str
    begin: Callable[[FaultyService], End]
    lasts_s: float = 5.0
    needs: frozenset[Kind] = frozenset()


def killed_replica(deployment: str) -> Callable[[FaultyService], End]:
    """Kills the oldest replica of a deployment."""

    def begin(target: FaultyService) -> End:
        _oldest(target, deployment).kill()
        return nothing

    return begin


def killed(program: str) -> Callable[[FaultyService], End]:
    """Kills every process of the service with this name."""

    def begin(target: FaultyService) -> End:
        victims = target.processes.named(program)
        if not victims:
            raise fail("unavailable", f"The service has no process {program!r}.")
        for process in victims:
            process.kill()
        return nothing

    return begin


def stopped_replica(deployment: str) -> Callable[[FaultyService], End]:
    """Stops the oldest replica of a deployment, which keeps its memory and its connections and answers nothing."""

    def begin(target: FaultyService) -> End:
        process = _oldest(target, deployment)
        process.send_signal(signal.SIGSTOP)
        return lambda: _continue(process)

    return begin


def limited(deployment: str, kind: int, room: Callable[[psutil.Process], int]) -> Callable[[FaultyService], End]:
    """Lowers a limit (`psutil.RLIMIT_...`) of the oldest replica of a deployment to `room(process)`."""

    def begin(target: FaultyService) -> End:
        process = _oldest(target, deployment)
        before = process.rlimit(kind)
        process.rlimit(kind, (room(process), before[1]))

        def end() -> None:
            with contextlib.suppress(psutil.NoSuchProcess):  # it may have died of it
                process.rlimit(kind, before)

        return end

    return begin


def stalled(model: str) -> Callable[[FaultyService], End]:
    """Sends a request to a simulated model that never ends its step."""

    def begin(target: FaultyService) -> End:
        url = f"http://{target.service.host}:{target.service.port}/v1/audio/speech"

        def ask() -> None:
            with contextlib.suppress(httpx.HTTPError):  # it gets no answer
                httpx.post(url, json={"model": model, "input": "Please stall here."}, timeout=60, trust_env=False)

        threading.Thread(target=ask, daemon=True).start()
        return nothing

    return begin


def half_written_weights(deployment: str) -> Callable[[FaultyService], End]:
    """Cuts the file with the weights in two, and kills the replica that has loaded the whole one."""

    def begin(target: FaultyService) -> End:
        whole = target.weights.read_bytes()
        target.weights.write_bytes(whole[: len(whole) // 2])
        for process in target.processes.replicas(deployment):
            process.kill()

        def end() -> None:
            target.weights.write_bytes(whole)

        return end

    return begin


def _oldest(target: FaultyService, deployment: str) -> psutil.Process:
    found = target.processes.replicas(deployment)
    if not found:
        raise fail("unavailable", f"{deployment} has no replica.")
    return found[0]


def _continue(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # Ray Serve has ended it
        process.send_signal(signal.SIGCONT)
