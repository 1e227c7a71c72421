"""The silences between words, from the energy of the sound."""

from __future__ import annotations

import numpy as np

from deployments.engines.protocols import Samples

PAUSE_RATE = 16_000
LEAST_PAUSE_S = 0.1
"""A shorter silence may be inside a word, before a plosive."""
FRAME = PAUSE_RATE // 100
# A pause is at most 4 dB louder than the quietest twentieth of the window, or 40 dB quieter than the loudest tenth.
QUIET_PERCENTILE, LOUD_PERCENTILE = 5, 90
ABOVE_QUIET_DB, BELOW_LOUD_DB, LEAST_CONTRAST_DB = 4.0, 40.0, 10.0

Pause = tuple[float, float]
"""Start and end in seconds."""


def pauses_of(samples: Samples) -> list[Pause]:
    """The silences of at least `LEAST_PAUSE_S` in mono samples at 16 kHz, from the energy of frames of 10 ms."""
    count = len(samples) // FRAME
    if count < 3:
        return []
    energy = np.mean(np.square(samples[: count * FRAME].reshape(count, FRAME)), axis=1)
    levels = np.convolve(10 * np.log10(np.maximum(energy, 1e-10)), np.full(3, 1 / 3), "same")
    quiet, loud = np.percentile(levels, (QUIET_PERCENTILE, LOUD_PERCENTILE))
    threshold = min(max(quiet + ABOVE_QUIET_DB, loud - BELOW_LOUD_DB), loud - LEAST_CONTRAST_DB)
    changes = np.flatnonzero(np.diff(levels < threshold, prepend=False, append=False))
    pauses = [(start / 100, end / 100) for start, end in zip(changes[::2], changes[1::2], strict=True)]
    return [(float(start), float(end)) for start, end in pauses if end - start >= LEAST_PAUSE_S]
