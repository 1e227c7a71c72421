"""What waits at a replica, in seconds of audio, and how long listeners wait for their first sound there: the two numbers by
which replicas are added and taken away."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

QUEUED = "queued_seconds_of_audio"
WORKS = "works_under_way"
FIRST_SOUND_P95 = "first_sound_p95_seconds"

FIRST_SOUND_MEMORY_S = 30.0
MOST_FIRST_SOUNDS = 1000


class Work:
    """One stream, window or chunk that waits for its audio."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def made(self, seconds: float) -> None:
        """That much of its audio is done. A prediction may have been too short."""
        self.left = max(0.0, self.left - seconds)


class ReplicaLoad:
    """The work that a replica has taken on. Belongs to one thread; its clock is passed in."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._works: set[Work] = set()
        self._idle_since_s = clock()
        self._firsts: deque[tuple[float, float]] = deque(maxlen=MOST_FIRST_SOUNDS)

    @contextmanager
    def work(self, seconds: float) -> Iterator[Work]:
        """Work of about `seconds` of audio, while it is under way."""
        work = Work(seconds)
        self._works.add(work)
        try:
            yield work
        finally:
            self._works.discard(work)
            self._idle_since_s = self._clock()

    @property
    def idle_seconds(self) -> float:
        """How long there has been no work; 0 while there is some."""
        return 0.0 if self._works else self._clock() - self._idle_since_s

    def first_sound(self, waited_s: float) -> None:
        """A listener got the first sound after waiting so long."""
        self._firsts.append((self._clock(), waited_s))

    def stats(self) -> Mapping[str, float]:
        """Seconds of audio still to be made, how many wait for them, and the 95th percentile of the last first sounds, in
        seconds; 0 when there were none."""
        since = self._clock() - FIRST_SOUND_MEMORY_S
        waits = sorted(waited_s for when, waited_s in self._firsts if when >= since)
        return {
            QUEUED: sum(work.left for work in self._works),
            WORKS: float(len(self._works)),
            FIRST_SOUND_P95: waits[math.ceil(0.95 * len(waits)) - 1] if waits else 0.0,
        }
