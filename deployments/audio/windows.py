"""Cuts a recording into windows for recognition, at its quietest moments, while it is being read."""

from __future__ import annotations

import numpy as np

from deployments.engines.protocols import Samples
from deployments.settings import WindowSettings

LOUDNESS_SECONDS = 0.1
"""The length over which loudness is measured to find the quietest moment."""


class WindowCutter:
    """Cuts a stream. It holds at most one window and one block of mono float32 samples."""

    def __init__(self, sample_rate: int, settings: WindowSettings) -> None:
        self._rate = sample_rate
        self._longest = int(settings.window_s * sample_rate)
        self._shortest = int(settings.min_window_s * sample_rate)
        self._blocks: list[Samples] = []
        self._count = 0
        self._start = 0

    def push(self, samples: Samples) -> list[tuple[float, Samples]]:
        """Takes the next mono (n,) samples, and returns the complete windows, each with its start in seconds."""
        self._blocks.append(samples)
        self._count += len(samples)
        windows = []
        while self._count > self._longest:  # blocks are joined once a window, not once a block
            held = np.concatenate(self._blocks)
            windows.append(self._take(held, self._quietest_cut(held)))
        return windows

    def finish(self) -> list[tuple[float, Samples]]:
        """The last window; nothing if no samples are left."""
        return [self._take(np.concatenate(self._blocks), self._count)] if self._count else []

    def _take(self, held: Samples, length: int) -> tuple[float, Samples]:
        window = (self._start / self._rate, held[:length].copy())
        self._blocks, self._count = [held[length:].copy()], self._count - length
        self._start += length
        return window

    def _quietest_cut(self, held: Samples) -> int:
        """The middle of the quietest moment between the shortest and the longest window, in samples."""
        width = max(1, int(LOUDNESS_SECONDS * self._rate))
        energy = np.cumsum(np.square(held[self._shortest : self._longest], dtype=np.float64))
        if len(energy) <= width:
            return self._longest
        loudness = energy[width:] - energy[:-width]
        # The latest of equally quiet moments wins: a longer window gives the model more context.
        quietest = len(loudness) - 1 - int(np.argmin(loudness[::-1]))
        return self._shortest + quietest + width // 2
