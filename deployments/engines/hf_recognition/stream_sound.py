"""The sound of one stream that its model has not used up."""

from __future__ import annotations

import numpy as np

from deployments.audio.stream_tail import StreamTail
from deployments.engines.protocols import Samples


class StreamSound:
    """Mono float32 samples by their position in the stream. Silence precedes the stream and follows its end."""

    def __init__(self) -> None:
        self._tail = StreamTail()
        self._first = self._pushed = 0
        self._end: int | None = None

    @property
    def length(self) -> int:
        """Samples that the stream has so far, and all that it will have once it has ended."""
        return self._pushed if self._end is None else self._end

    def push(self, samples: Samples) -> None:
        """Appends (n,) samples."""
        self._tail.push(samples)
        self._pushed += len(samples)

    def end(self, samples: int, length: int) -> None:
        """The stream keeps its first `samples` and is silent from there to `length`."""
        self._pushed, self._end = min(samples, self._pushed), length

    def between(self, start: int, end: int) -> Samples:
        """A copy of the samples from `start` to `end`, with zeros where the stream has none."""
        wanted = np.zeros(end - start, np.float32)
        first, last = max(start, self._first), min(end, self._pushed)
        if first < last:
            wanted[first - start : last - start] = self._tail.between(first, last)
        return wanted

    def drop(self, before: int) -> None:
        """Forgets the samples before a position."""
        before = min(before, self._pushed)
        if before > self._first:
            self._tail.drop(before)
            self._first = before

    def clear(self) -> None:
        """Forgets all samples."""
        self._tail, self._first = StreamTail(), self._pushed
