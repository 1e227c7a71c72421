"""Mel filters: weights that turn a power spectrum into mel energies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deployments.engines.protocols import Samples

LINEAR_MELS = 15.0
"""Slaney's scale is linear up to 1 kHz, which is 15 mel, and logarithmic above."""
_HERTZ_PER_MEL = 1000.0 / LINEAR_MELS
_LOG_STEP = np.log(6.4) / 27.0


def mel_filters(sample_rate: int, fft_samples: int, mels: int) -> Samples:
    """The triangles of Slaney's Auditory Toolbox (1998), each of unit area, (fft_samples // 2 + 1, mels): librosa's default,
    from 0 Hz to half the sample rate in Hz, which must be over 2 kHz."""
    corners = _hertz_of(np.linspace(0.0, _mel_of(sample_rate / 2), mels + 2))
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    bins = np.linspace(0.0, sample_rate / 2, fft_samples // 2 + 1)[:, None]
    triangles = np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle))
    filters: Samples = (np.maximum(triangles, 0.0) * 2.0 / (high - low)).astype(np.float32)
    return filters


def _mel_of(hertz: float) -> float:
    """For frequencies over 1 kHz."""
    return LINEAR_MELS + float(np.log(hertz / 1000.0) / _LOG_STEP)


def _hertz_of(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    hertz: NDArray[np.float64] = np.where(
        mels < LINEAR_MELS, mels * _HERTZ_PER_MEL, 1000.0 * np.exp(_LOG_STEP * (mels - LINEAR_MELS))
    )
    return hertz
