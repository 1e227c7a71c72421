"""How far a separation is: chunks, seconds of sound, gaps, and the time that is left, as events for the client."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from deployments.tasks.separation import GAPS_FILE, Gap, Merged


class SeparationProgress:
    """Follows one separation. `expected_s` is the length of the recording as far as its file tells. `clock` is monotonic, in
    seconds."""

    def __init__(self, expected_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._expected_s = expected_s
        self._clock = clock
        self._started_s = clock()
        self._seconds = 0.0
        self._chunks = 0
        self._gaps: list[Gap] = []
        self._told = 0

    async def follow(self, merged: AsyncGenerator[Merged]) -> AsyncGenerator[Merged]:
        """The same parts."""
        async with aclosing(merged):
            async for part in merged:
                self._chunks += 1
                self._seconds += part.seconds
                if part.gap is not None:
                    self._gaps.append(part.gap)
                yield part

    def events(self, task: str) -> list[dict[str, Any]]:
        """The gaps since the last call, and how far the separation is now. `task` begins the names of the events."""
        gaps, self._told = self._gaps[self._told :], len(self._gaps)
        return [*({"type": f"{task}.gap", **asdict(gap)} for gap in gaps), self._progress(task)]

    def report(self) -> dict[str, str]:
        """The file of an archive that lists the gaps, by its name; nothing if there are none."""
        return {GAPS_FILE: json.dumps([asdict(gap) for gap in self._gaps])} if self._gaps else {}

    def _progress(self, task: str) -> dict[str, Any]:
        expected_s = max(self._expected_s, self._seconds)
        left_s = (
            (self._clock() - self._started_s) * (expected_s - self._seconds) / self._seconds if self._seconds else None
        )
        return {
            "type": f"{task}.progress",
            "chunks": self._chunks,
            "seconds": round(self._seconds, 3),
            "expected_seconds": round(expected_s, 3),
            "remaining_seconds": None if left_s is None else round(left_s, 1),
        }
