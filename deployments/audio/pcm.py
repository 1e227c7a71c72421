"""16-bit samples and the same as float32. Full scale is 32768 both ways, so a decoded recording comes back bit for bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FULL_SCALE = np.float32(32768)


def to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Samples in [-1, 1) of any shape as little-endian 16-bit integers. Louder ones are clipped."""
    whole: NDArray[np.int16] = np.rint(samples * FULL_SCALE).clip(-32768, 32767).astype("<i2")
    return whole


def to_float(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """16-bit samples of any shape as float32 in [-1, 1)."""
    return samples.astype(np.float32) / FULL_SCALE
