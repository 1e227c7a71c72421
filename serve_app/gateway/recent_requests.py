"""The requests that ended lately in this gateway replica, for people who watch the service."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from serve_app.gateway.request_context import RequestRecord

MOST_KEPT = 200


@dataclass(frozen=True, slots=True)
class FirstResult:
    """How long a client waited for the first sound of a request, or the first text of a transcription.

    `at` is when the request ended, in Unix seconds.
    """

    at: float
    model: str
    placement: str | None
    milliseconds: float


class RecentRequests:
    """Keeps the first results of the latest `MOST_KEPT` requests. `clock` is in Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._first = deque[FirstResult](maxlen=MOST_KEPT)

    def add(self, record: RequestRecord) -> None:
        """A request ended. One without a result is not kept."""
        waited_ms = record.first_result_ms if record.first_sound_ms is None else record.first_sound_ms
        if waited_ms is not None and record.model is not None:
            self._first.append(FirstResult(self._clock(), record.model, record.placement, waited_ms))

    def first_results(self) -> Iterator[FirstResult]:
        """The oldest first."""
        return iter(self._first)
