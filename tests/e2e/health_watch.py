"""Sends a health check every 50 ms and records how long each answer took.

It runs in a process of its own. In the test's process its thread would wait for the lock of an interpreter that opens
thousands of connections at that moment, and would take that for a slow service.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]
INTERVAL_S = 0.05
ANSWER_WITHIN_S = 0.25
"""The bound that the service promises during an attack."""
PAUSE_S = 2.0
GIVE_UP_S = 10.0
MIN_ANSWERS = 3
"""A watch goes on until it has as many, so that a short attack is watched as well."""


class HealthWatch:
    """Requests `/livez` for as long as the context. Every request opens a new connection, as a new client would: a connection
    from before the attack shows less."""

    def __init__(self, host: str, port: int, path: str = "/livez") -> None:
        self._command = [sys.executable, "-m", "tests.e2e.health_watch", host, str(port), path]
        self.seconds: list[float] = []
        """How long each answer took."""
        self.failures: list[str] = []
        """Results other than status 200, and their times."""

    def __enter__(self) -> HealthWatch:
        self._program = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert self._program.stdout is not None
        assert self._program.stdout.readline() == "ready\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        output, _ = self._program.communicate("")
        result = json.loads(output)
        self.seconds, self.failures = result["seconds"], result["failures"]

    @property
    def longest_s(self) -> float:
        """The longest time that an answer took, in seconds."""
        return max(self.seconds, default=0.0)

    def check(self, within_s: float = ANSWER_WITHIN_S) -> None:
        """Asserts that the service always answered, and within the bound.

        One answer may be late by `PAUSE_S`, or one of fifty: a busy virtual machine stands still for that long by itself. An
        attack that holds the event loop makes many answers late, or one by several seconds.
        """
        assert self.failures == []
        assert len(self.seconds) >= MIN_ANSWERS
        late = [seconds for seconds in self.seconds if seconds > within_s]
        described = f"of {len(self.seconds)} answers: {', '.join(f'{seconds * 1000:.0f} ms' for seconds in late)}"
        assert len(late) <= max(1, len(self.seconds) // 50), described
        assert max(late, default=0.0) <= within_s + PAUSE_S, described


def main(host: str, port: str, path: str) -> None:
    """Watches until its input ends, then prints the times and failures as JSON."""
    over = threading.Event()
    threading.Thread(target=_set_at_end_of_input, args=(over,), daemon=True).start()
    print("ready", flush=True)
    seconds: list[float] = []
    failures: list[str] = []
    while not over.is_set() or len(seconds) < MIN_ANSWERS:
        asked = time.monotonic()
        error = _error_of_one(host, int(port), path)
        seconds.append(time.monotonic() - asked)
        if error:
            failures.append(f"{error} after {seconds[-1]:.3f} s")
        over.wait(INTERVAL_S)
    print(json.dumps({"seconds": seconds, "failures": failures}))


def _set_at_end_of_input(event: threading.Event) -> None:
    sys.stdin.read()
    event.set()


def _error_of_one(host: str, port: int, path: str) -> str:
    """The error of one answer; empty if there is none."""
    connection = HTTPConnection(host, port, timeout=GIVE_UP_S)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return "" if status == 200 else f"status {status}"


if __name__ == "__main__":
    main(*sys.argv[1:])
