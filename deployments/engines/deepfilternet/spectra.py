"""The transform and the features of DeepFilterNet3, frame by frame with the state of a stream as a value.

Schröter et al., "DeepFilterNet: Perceptually motivated real-time speech enhancement", 2023 (https://arxiv.org/abs/2305.08227).
Constants are those of the published model and its code, libDF.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployments.engines.protocols import Samples

Floats = NDArray[np.float32]
Spectra = NDArray[np.complex64]
"""(channels, frames, BINS) complex64."""

SAMPLE_RATE = 48000
HOP = 480
FFT = 2 * HOP
BINS = HOP + 1
BANDS = 32
LEAST_BAND_BINS = 2
FILTERED_BINS = 96
"""The lowest bins, up to 4.8 kHz, which are filtered; the others are scaled band by band."""

DECAY = 0.99
"""Of the running means, for one frame: a time constant of 1 s, rounded to three digits as the published code does."""


def _window() -> Floats:
    """The power-complementary window of Vorbis (Vorbis I specification, section 4.3.1), (FFT,)."""
    phase = np.sin(np.pi * (np.arange(FFT) + 0.5) / FFT)
    return np.sin(np.pi / 2 * phase**2).astype(np.float32)


def band_widths() -> NDArray[np.int64]:
    """The bins in each band, (BANDS,): equal widths on the scale of equivalent rectangular bandwidths (Glasberg and Moore
    1990), at least LEAST_BAND_BINS; what a band takes too much, the next ones lack."""
    highest = np.log1p(SAMPLE_RATE / 2 / (24.7 * 9.265))
    edges = 24.7 * 9.265 * np.expm1(highest * np.arange(1, BANDS + 1) / BANDS)
    nearest = np.round(edges * FFT / SAMPLE_RATE).astype(np.int64)
    ends = np.maximum.accumulate(nearest - LEAST_BAND_BINS * np.arange(1, BANDS + 1))
    ends = np.maximum(ends, 0) + LEAST_BAND_BINS * np.arange(1, BANDS + 1)
    ends[-1] = BINS
    return np.diff(ends, prepend=0)


WINDOW = _window()
BAND_WIDTHS = band_widths()
BAND_STARTS = np.cumsum(BAND_WIDTHS) - BAND_WIDTHS


def spectra(samples: Samples) -> Spectra:
    """Spectra of (channels, (n + 1) * HOP) samples: n frames of two hops, one for each hop after the first."""
    hops = samples.reshape(len(samples), -1, HOP)
    frames = np.concatenate((hops[:, :-1], hops[:, 1:]), axis=-1)
    return (np.fft.rfft(frames * WINDOW) / FFT).astype(np.complex64)


def halves(spectrum: Spectra) -> tuple[Samples, Samples]:
    """The windowed frames of spectra, cut in the middle: two arrays (channels, frames, HOP) to overlap and add."""
    frames = (np.fft.irfft(spectrum, FFT) * (FFT * WINDOW)).astype(np.float32)
    return frames[..., :HOP], frames[..., HOP:]


@dataclass(frozen=True, slots=True)
class RunningMeans:
    """The means that features are normalised by: `band_db` (channels, BANDS) and `magnitude` (channels, FILTERED_BINS)."""

    band_db: Floats
    magnitude: Floats


def initial_means(channels: int) -> RunningMeans:
    """The means that the published code begins with."""
    band_db = np.linspace(-60, -90, BANDS, dtype=np.float32)
    magnitude = np.linspace(0.001, 0.0001, FILTERED_BINS, dtype=np.float32)
    return RunningMeans(np.tile(band_db, (channels, 1)), np.tile(magnitude, (channels, 1)))


def features(spectrum: Spectra, means: RunningMeans) -> tuple[Floats, Floats, RunningMeans]:
    """The network's inputs for s frames, and the next means: the bands' levels in units of 40 dB above their means,
    (channels, 1, s, BANDS), and the lowest bins over the root of their mean magnitude, (channels, 2, s, FILTERED_BINS)."""
    power = spectrum.real**2 + spectrum.imag**2
    band_db = 10 * np.log10(np.add.reduceat(power, BAND_STARTS, axis=-1) / BAND_WIDTHS + 1e-10)
    mean_db, last_db = _running_mean(band_db, means.band_db)
    low = spectrum[..., :FILTERED_BINS]
    mean_magnitude, last_magnitude = _running_mean(np.abs(low), means.magnitude)
    unit = low / np.sqrt(mean_magnitude)
    bands = ((band_db - mean_db) / 40).astype(np.float32)
    return bands[:, np.newaxis], np.stack((unit.real, unit.imag), axis=1), RunningMeans(last_db, last_magnitude)


def _running_mean(values: NDArray[np.floating], before: Floats) -> tuple[Floats, Floats]:
    """The exponential mean of (channels, frames, n) up to each frame, and that of the last one."""
    # `scipy.signal.lfilter` is the same, and its import takes 78 MB of each replica.
    means, mean = np.empty(values.shape, np.float32), before.astype(np.float64)
    for frame in range(values.shape[1]):
        mean = DECAY * mean + (1 - DECAY) * values[:, frame]
        means[:, frame] = mean
    return means, means[:, -1]
