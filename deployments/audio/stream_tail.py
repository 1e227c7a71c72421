"""The last samples of a stream, which are held until nothing needs them any more."""

from __future__ import annotations

import numpy as np

from deployments.engines.protocols import Samples


class StreamTail:
    """The last samples of a mono stream, by their position in it."""

    def __init__(self) -> None:
        self._blocks: list[Samples] = []
        self._start = 0

    @property
    def held(self) -> int:
        """The number of samples that are held."""
        return sum(map(len, self._blocks))

    def push(self, samples: Samples) -> None:
        """Appends (n,) samples."""
        self._blocks.append(samples)

    def between(self, start: int, end: int) -> Samples:
        """The samples from one position to another, which must be held."""
        if len(self._blocks) > 1:
            self._blocks = [np.concatenate(self._blocks)]
        return self._blocks[0][start - self._start : end - self._start] if self._blocks else np.zeros(0, np.float32)

    def drop(self, until: int) -> None:
        """Forgets the samples before a position."""
        while self._blocks and self._start + len(self._blocks[0]) <= until:
            self._start += len(self._blocks.pop(0))
        if self._blocks and until > self._start:
            # A copy, or the view would keep the whole block.
            self._blocks[0] = self._blocks[0][until - self._start :].copy()
            self._start = until
