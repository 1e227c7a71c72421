"""How much audio a replica has still to make, and how long clients wait for their first audio: autoscaling follows both."""

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
MAX_FIRST_SOUNDS = 1000


class Work:
    """One stream, window or chunk. `left` is the audio that is still to be made for it, in seconds."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def made(self, seconds: float) -> None:
        """`seconds` of its audio were made, which may be more than was predicted."""
        self.left = max(0.0, self.left - seconds)


class ReplicaLoad:
    """The work that a replica has accepted. Belongs to one thread; `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._works: dict[Work, None] = {}  # in order, so that the same work gives the same sum
        self._idle_since_s = clock()
        self._firsts: deque[tuple[float, float]] = deque(maxlen=MAX_FIRST_SOUNDS)

    @contextmanager
    def work(self, seconds: float) -> Iterator[Work]:
        """Counts work of about `seconds` of audio while the context lasts."""
        work = self.begin(seconds)
        try:
            yield work
        finally:
            self.end(work)

    def begin(self, seconds: float) -> Work:
        """Counts work of about `seconds` of audio until its `end`."""
        work = Work(seconds)
        self._works[work] = None
        return work

    def end(self, work: Work) -> None:
        """Stops counting the work."""
        del self._works[work]
        self._idle_since_s = self._clock()

    @property
    def idle_seconds(self) -> float:
        """How long there has been no work, in seconds; 0 while there is some."""
        return 0.0 if self._works else self._clock() - self._idle_since_s

    def first_sound(self, waited_s: float) -> None:
        """A client got its first audio after `waited_s`."""
        self._firsts.append((self._clock(), waited_s))

    def stats(self) -> Mapping[str, float]:
        """Seconds of audio still to be made, the number of works, and the 95th percentile of recent times to first audio in
        seconds (0 if there were none)."""
        since = self._clock() - FIRST_SOUND_MEMORY_S
        waits = sorted(waited_s for when, waited_s in self._firsts if when >= since)
        return {
            QUEUED: sum(work.left for work in self._works),
            WORKS: float(len(self._works)),
            FIRST_SOUND_P95: waits[math.ceil(0.95 * len(waits)) - 1] if waits else 0.0,
        }
