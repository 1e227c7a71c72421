"""A tone in the place of a voice: for warming engines up, and for measuring them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def hum(sample_rate: int, seconds: float, pitch_hz: float = 150.0) -> NDArray[np.float32]:
    """Mono float32 (n,) in [-1, 1], loud and quiet by turns as speech is."""
    times = np.arange(int(seconds * sample_rate)) / sample_rate
    loud = np.sin(2 * np.pi * 1.3 * times) > -0.6
    sound: NDArray[np.float32] = (0.3 * np.sin(2 * np.pi * pitch_hz * times) * loud).astype(np.float32)
    return sound
