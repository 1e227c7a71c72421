"""Uploaded voices that were deleted: what is computed from their clips is not kept any more."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

REMEMBERED_S = 3600.0
"""Longer than a request may take: one that began before the deletion still has the clip. After this time the same clip, if it
was uploaded again, is kept as usual."""


@runtime_checkable
class KeepsVoices(Protocol):
    """A speech engine that keeps what it computed from clips."""

    def forget_voice(self, id: str) -> None:
        """Drops what was computed from the clip with this id, and keeps nothing of it for `REMEMBERED_S`."""


class ForgottenVoices:
    """The ids of voices that were deleted lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until_s: dict[str, float] = {}

    def add(self, id: str) -> None:
        """The voice was deleted now."""
        now_s = self._clock()
        self._until_s = {known: until_s for known, until_s in self._until_s.items() if until_s > now_s}
        self._until_s[id] = now_s + REMEMBERED_S

    def __contains__(self, id: str) -> bool:
        return self._until_s.get(id, 0.0) > self._clock()
