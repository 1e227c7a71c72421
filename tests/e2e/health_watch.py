"""Sends a health check every 50 ms and records the longest time to an answer."""

from __future__ import annotations

import threading
import time
from http.client import HTTPConnection, HTTPException
from types import TracebackType

INTERVAL_S = 0.05
ANSWER_WITHIN_S = 0.25
"""The bound that the service promises during an attack."""
PAUSE_S = 0.5
GIVE_UP_S = 10.0


class HealthWatch:
    """A thread that requests `/livez` for as long as the context. Every request opens a new connection, as a new client would: a
    connection from before the attack shows less."""

    def __init__(self, host: str, port: int, path: str = "/livez") -> None:
        self._address = (host, port)
        self._path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="health-watch")
        self.seconds: list[float] = []
        """How long each answer took."""
        self.failures: list[str] = []
        """Results other than status 200, and their times."""

    def __enter__(self) -> HealthWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def longest_s(self) -> float:
        """The longest time that an answer took, in seconds."""
        return max(self.seconds, default=0.0)

    def check(self, within_s: float = ANSWER_WITHIN_S, least: int = 3) -> None:
        """Asserts that the service answered at least `least` times, always, and within the bound.

        One answer may be late by `PAUSE_S`, or one of fifty: a busy virtual machine stands still for that long by itself, and
        an attack that holds the event loop makes many answers late, or one by seconds.
        """
        assert self.failures == []
        assert len(self.seconds) >= least, f"only {len(self.seconds)} answers"
        late = [seconds for seconds in self.seconds if seconds > within_s]
        told = f"of {len(self.seconds)} answers: {', '.join(f'{seconds * 1000:.0f} ms' for seconds in late)}"
        assert len(late) <= max(1, len(self.seconds) // 50), told
        assert max(late, default=0.0) <= within_s + PAUSE_S, told

    def _watch(self) -> None:
        while not self._over.is_set():
            asked = time.monotonic()
            trouble = self._ask()
            took = time.monotonic() - asked
            self.seconds.append(took)
            if trouble:
                self.failures.append(f"{trouble} after {took:.3f} s")
            self._over.wait(INTERVAL_S)

    def _ask(self) -> str:
        """The error of an answer; empty if there is none."""
        connection = HTTPConnection(*self._address, timeout=GIVE_UP_S)
        try:
            connection.request("GET", self._path)
            status = connection.getresponse().status
        except (OSError, HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            connection.close()
        return "" if status == 200 else f"status {status}"
