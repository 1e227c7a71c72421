"""Bounds on what is open at once in one gateway replica: sessions, and recordings that are answered while they arrive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deployments.errors import fail


class SessionLimit:
    """Bounds how many sessions of one `kind` are open at once: `most` in all, and `most_per_client` of a client. A client
    holds its session whether or not it sends anything."""

    def __init__(self, most: int, most_per_client: int | None, kind: str = "speech") -> None:
        self._kind = kind
        self._most = most
        self._most_per_client = most_per_client
        self._open = 0
        self._of_client = Counter[str]()

    @property
    def open(self) -> int:
        """Open sessions."""
        return self._open

    @contextmanager
    def one(self, client: str | None) -> Iterator[None]:
        """Counts one session, of a client unless it is None. Raises `MotetError` (overloaded) at either limit."""
        if self._open >= self._most:
            cause = f"{self._open} {self._kind} sessions are open, the limit of this service."
            raise fail("overloaded", cause, "Try again in a moment.", code="too_many_sessions")
        key, most = client or "", self._most_per_client
        if client is not None and most is not None and self._of_client[key] >= most:
            cause = f"This client has {self._of_client[key]} {self._kind} sessions open, the limit for one client."
            raise fail("overloaded", cause, "Close one of them first.", code="too_many_sessions")
        self._open += 1
        self._of_client[key] += 1
        try:
            yield
        finally:
            self._open -= 1
            self._of_client[key] -= 1
            if not self._of_client[key]:
                del self._of_client[key]


class EarlyAnswers:
    """Bounds how many recordings are answered while they arrive. Others are answered once they have arrived, so that slow
    clients do not hold all sessions of the audio helpers."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._arriving = 0

    def begin(self, on_end: Callable[[Callable[[], None]], None]) -> bool:
        """Counts a recording until its end, for which `on_end` takes a call. False if there is no room for it."""
        if self._arriving >= self._most:
            return False
        self._arriving += 1
        on_end(self._end)
        return True

    def _end(self) -> None:
        self._arriving -= 1
