"""The real service as a separate program, for as long as a benchmark needs it.

Each has its own port, Ray and folder, so several can run at once. They share the cores, and even an idle Ray uses some, so a
benchmark measures them one after another.
"""

from __future__ import annotations

import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, get_args

from deployments.errors import fail
from serve_app import profiles
from serve_app.cli import serve
from serve_app.cli.processes import descendants, kill

CONFIG = Path(__file__).parents[2] / "serve_config.yaml"
READY = "Motet is ready"
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30.0
PORTS = range(20_000, 32_000)
PORT_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class RunningProgram:
    """A server that is ready: its address, and the seconds from its start to its ready line."""

    host: str
    port: int
    start_seconds: float


@contextmanager
def running_service(profile: profiles.Profile, config: Path = CONFIG) -> Iterator[RunningProgram]:
    """Starts the service in a profile and waits for its ready line. All its processes end with the context.

    Raises `MotetError` with the end of its output if it does not start.
    """
    port = free_loopback_port()
    environment = {**os.environ, "MOTET_HOST": "127.0.0.1", "MOTET_PORT": str(port)}
    environment.pop("RAY_ADDRESS", None)  # the benchmark measures a cluster of its own
    command = [sys.executable, "-m", "serve_app.bench.running_service", str(config), profile]
    with running_program(command, READY, environment) as (_, seconds):
        yield RunningProgram("127.0.0.1", port, seconds)


def free_loopback_port() -> int:
    """A free port below those that the system gives to outgoing connections: one of these could take it before the service
    binds it, seconds later. Raises `MotetError` (unavailable) if none is found."""
    for _ in range(PORT_ATTEMPTS):
        port = PORTS.start + secrets.randbelow(len(PORTS))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise fail("unavailable", f"No free port from {PORTS.start} to {PORTS.stop - 1} was found.", "End other services.")


@contextmanager
def running_program(command: Sequence[str], ready: str, environment: dict[str, str]) -> Iterator[tuple[str, float]]:
    """Runs a program in its own process group. Gives its line that starts with `ready`, and the seconds until that line.

    The program is stopped with SIGTERM, and its remaining processes are killed. Its stdin ends when this process ends.
    """
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        program = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            text=True,
        )
        try:
            line = _line_that_starts_with(ready, program, errors)
            yield line, time.perf_counter() - started
        finally:
            _stop(program)


def end_with_parent() -> None:
    """Makes a program under `running_program` stop when its parent is killed."""

    def watch() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _line_that_starts_with(ready: str, program: subprocess.Popen[str], errors: IO[bytes]) -> str:
    """Waits for the line. A thread keeps reading the pipe afterwards, so that the program never blocks on it."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_pump, args=(program.stdout, lines), daemon=True).start()
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            line = lines.get(timeout=max(deadline - time.monotonic(), 0))
        except queue.Empty:
            line = None
        if line is None:
            raise fail("unavailable", f"{program.args!r} did not start. {_tail(errors)}")
        if line.startswith(ready):
            return line.rstrip()


def _pump(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _tail(errors: IO[bytes], size: int = 2000) -> str:
    errors.seek(0)
    return errors.read().decode(errors="replace")[-size:]


def _stop(program: subprocess.Popen[str]) -> None:
    family = descendants(program.pid)
    program.terminate()
    try:
        program.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()
    kill(family, STOP_TIMEOUT_S)


if __name__ == "__main__":
    end_with_parent()
    chosen = next(profile for profile in get_args(profiles.Profile) if profile == sys.argv[2])
    sys.exit(serve.serve_in_new_program(Path(sys.argv[1]), chosen))
