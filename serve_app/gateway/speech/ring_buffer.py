"""Bounded buffers of samples with one writer and one reader on one thread."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import numpy as np

from deployments.engines.protocols import Samples


class SampleBuffer(Protocol):
    """Holds mono float32 samples, the oldest first. `level` is how many."""

    level: int

    @property
    def space(self) -> int:
        """How many more samples fit now."""

    def write(self, samples: Samples) -> int:
        """Takes as many of the samples (n,) as it can; returns how many."""

    def read(self, count: int) -> Samples:
        """Takes out the oldest samples, up to `count` of them if the buffer cuts."""


class ChunkQueue:
    """Passes chunks on whole and without a copy. It takes one while it holds less than its capacity, so it holds at most
    that and one chunk."""

    def __init__(self, capacity: int) -> None:
        self._chunks: deque[Samples] = deque()
        self._capacity = capacity
        self.level = 0

    @property
    def space(self) -> int:
        """How many more samples it waits for; 0 once it holds its capacity."""
        return max(0, self._capacity - self.level)

    def write(self, samples: Samples) -> int:
        """Takes all of the samples, or none."""
        if self.space == 0:
            return 0
        self._chunks.append(samples)
        self.level += len(samples)
        return len(samples)

    def read(self, count: int) -> Samples:
        """Takes out the oldest chunk, whatever `count` is."""
        samples = self._chunks.popleft()
        self.level -= len(samples)
        return samples


class RingBuffer:
    """Holds at most `capacity` mono float32 samples."""

    def __init__(self, capacity: int) -> None:
        self._ring: Samples = np.zeros(capacity, np.float32)
        self._read = 0
        self.level = 0

    @property
    def capacity(self) -> int:
        """How many samples fit."""
        return len(self._ring)

    @property
    def space(self) -> int:
        """How many more samples fit now."""
        return self.capacity - self.level

    def write(self, samples: Samples) -> int:
        """Takes as many of the samples (n,) as fit; returns how many."""
        count = min(len(samples), self.space)
        start = (self._read + self.level) % self.capacity
        before_end = min(count, self.capacity - start)
        self._ring[start : start + before_end] = samples[:before_end]
        self._ring[: count - before_end] = samples[before_end:count]
        self.level += count
        return count

    def read(self, count: int) -> Samples:
        """Takes out up to `count` samples, the oldest first."""
        count = min(count, self.level)
        before_end = min(count, self.capacity - self._read)
        taken = np.concatenate([self._ring[self._read : self._read + before_end], self._ring[: count - before_end]])
        self._read = (self._read + count) % self.capacity
        self.level -= count
        return taken
