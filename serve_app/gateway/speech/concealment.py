"""Sound for a gap: the last pitch period before it, repeated with a fade-out, and a fade-in of the sound after it.

Pitch-synchronous repetition after ITU-T G.711 Appendix I, without its delay: the last samples have been sent already, so the
extension bends towards them instead of overlapping them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deployments.audio.overlap_add import fade_in
from deployments.engines.protocols import Samples

HISTORY_MS = 60.0
FADE_OUT_MS = 60.0
FADE_IN_MS = 10.0
COMPARED_MS = 20.0
SHORTEST_PERIOD_MS, LONGEST_PERIOD_MS = 2.5, 20.0
"""50 to 400 Hz, the pitch of voices. For a higher pitch, several periods are found as one."""


class Concealment:
    """Conceals the gaps of one mono float32 stream at `sample_rate` Hz.

    Pass everything that leaves for the listener to `sent`, including the samples that `conceal` and `resume` return.
    """

    def __init__(self, sample_rate: int) -> None:
        assert sample_rate >= 8000, sample_rate
        self._rate = sample_rate
        self._history: Samples = np.zeros(self._count(HISTORY_MS), np.float32)
        self._extension: Samples = np.zeros(0, np.float32)
        self._rise: NDArray[np.float64] = np.zeros(0)
        self._concealing = False

    def sent(self, samples: Samples) -> None:
        """Notes that samples (n,) left for the listener."""
        recent = samples[-len(self._history) :]
        self._history = np.concatenate([self._history[len(recent) :], recent])

    def conceal(self, count: int) -> Samples:
        """The next `count` samples of a gap: the sound before it, which fades out within 60 ms, then silence."""
        if not self._concealing:
            self._concealing = True
            self._extension = self._extended()
            self._rise = fade_in(self._count(FADE_IN_MS))
        return self._take(count)

    def resume(self, samples: Samples) -> Samples:
        """The samples (n,) to send: after a gap, their first 10 ms fade in over the rest of the extension. Without a gap
        before them they are unchanged."""
        self._concealing = False
        count = min(len(samples), len(self._rise))
        rise, self._rise = self._rise[:count], self._rise[count:]
        resumed = samples.astype(np.float32)
        resumed[:count] = samples[:count] * rise + self._take(count) * (1 - rise)
        return resumed

    def _count(self, milliseconds: float) -> int:
        return int(milliseconds / 1000 * self._rate)

    def _take(self, count: int) -> Samples:
        taken, self._extension = self._extension[:count], self._extension[count:]
        return np.concatenate([taken, np.zeros(count - len(taken), np.float32)])

    def _extended(self) -> Samples:
        """The whole fade-out, made from the sound that was sent last."""
        history = self._history.astype(np.float64)
        length, period = self._count(FADE_OUT_MS), self._period(history)
        extension = np.resize(_loop(history, period), length)
        # The loop continues the sample before it, not the last one sent: the difference fades over a period.
        bend = (history[-1] - history[-period - 1]) * (1 - fade_in(period))
        extension[:period] += bend[:length]
        peak = np.abs(history).max()
        faded: Samples = (np.clip(extension, -peak, peak) * (1 - fade_in(length))).astype(np.float32)
        return faded

    def _period(self, history: NDArray[np.float64]) -> int:
        """The lag in samples at which the history resembles its end most (normalised cross-correlation)."""
        shortest, longest = self._count(SHORTEST_PERIOD_MS), self._count(LONGEST_PERIOD_MS)
        end = history[-self._count(COMPARED_MS) :]
        earlier = history[-len(end) - longest : -shortest]
        products = np.correlate(earlier, end, "valid")[::-1]
        sums = np.concatenate([[0.0], np.cumsum(earlier**2)])
        energies = (sums[len(end) :] - sums[: -len(end)])[::-1]
        return shortest + int(np.argmax(products / np.sqrt(np.maximum(energies, 1e-12))))


def _loop(history: NDArray[np.float64], period: int) -> NDArray[np.float64]:
    """The last period, with its last quarter faded into the sound before the period, so that it repeats without a step."""
    loop = history[-period:].copy()
    seam = period // 4
    rise = fade_in(seam)
    loop[-seam:] = loop[-seam:] * (1 - rise) + history[-period - seam : -period] * rise
    return loop
