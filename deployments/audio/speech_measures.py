"""Measures of a piece of speech: level, clipping, silences, how it begins and ends, and whether a part of it comes twice.

Pure arithmetic on samples, about 0.3 ms for a second of sound. `deployments/tasks/piece_quality.py` judges the measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.audio.mel_filters import mel_filters
from deployments.engines.protocols import Samples

Floats = NDArray[np.float32]

FRAME_S = 0.02
"""Seconds of one level."""
FLOOR_DB = -100.0
"""The level of digital silence, in dB below full scale."""
QUIET_DB = 35.0
"""A frame this much below the loud frames of its piece is a pause. Fricatives and the ends of words lie above."""
SILENT_DB = -60.0
"""A frame below this is a pause, however quiet the piece is."""
NEAR_PEAK = 0.999
CLIPPED_RUN = 3
"""Neighbouring samples that are as high as the peak of a piece, nearly, are a clipped wave."""

HOP_S, SPECTRUM_S = 0.02, 0.06
"""Time from one spectrum to the next, and of one. Shorter spectra differ when a sound comes again half a hop later."""
MELS = 20
LEAST_RATE = 8000
"""Hz of the spectra, at least: the cost of a piece is in proportion to it."""
MIN_REPEAT_S = 0.7
"""The shortest part that is looked for twice. Shorter ones, such as syllables, come twice in ordinary sentences."""
MIN_SOUNDING = 0.7
MAX_REPEAT_LAG_S = 8.0
"""The longest time from a part to its repetition."""


@dataclass(frozen=True, slots=True)
class SpeechMeasures:
    """What was measured of a piece.

    `seconds` is its whole length and `spoken_seconds` the time from the first to the last sound. `level_db` is the mean
    power of its sound in dB below full scale, without pauses. `clipped` is the share of samples in clipped waves.
    `longest_pause_s` lies between two sounds. `start_db` and `end_db` are the levels of the first and the last 20 ms
    relative to `level_db`. `repetition` is the similarity of the two most similar parts, at most 1.
    """

    seconds: float
    spoken_seconds: float
    level_db: float
    clipped: float
    longest_pause_s: float
    start_db: float
    end_db: float
    repetition: float


def measured(samples: Samples, sample_rate: int, *, in_a_hurry: bool = False) -> SpeechMeasures:
    """Measures a piece: mono float32 `samples` (n,) at `sample_rate` Hz. `in_a_hurry` leaves the repetition out (0), which
    takes most of the time."""
    levels = frame_levels(samples, sample_rate)
    sounds = _sounding(levels)
    if not len(sounds):
        return SpeechMeasures(len(samples) / sample_rate, 0.0, FLOOR_DB, 0.0, 0.0, 0.0, 0.0, 0.0)
    level = _mean_db(levels[sounds])
    return SpeechMeasures(
        seconds=len(samples) / sample_rate,
        spoken_seconds=float(sounds[-1] + 1 - sounds[0]) * FRAME_S,
        level_db=level,
        clipped=clipped_share(samples),
        longest_pause_s=float(np.diff(sounds).max(initial=1) - 1) * FRAME_S,
        start_db=float(levels[0]) - level,
        end_db=float(levels[-1]) - level,
        repetition=0.0 if in_a_hurry else repetition(samples, sample_rate),
    )


def without_outer_pauses(samples: Samples, sample_rate: int) -> Samples:
    """Mono samples (n,) from the first sound to the last, with a frame on either side; empty if there is only a pause."""
    sounds = _sounding(frame_levels(samples, sample_rate)) if len(samples) else np.zeros(0, np.intp)
    if not len(sounds):
        return samples[:0]
    size = max(1, int(FRAME_S * sample_rate))
    before = len(samples) % size if len(samples) >= size else 0
    start, end = before + (int(sounds[0]) - 1) * size, before + (int(sounds[-1]) + 2) * size
    return samples[max(0, start) : end]


def frame_levels(samples: Samples, sample_rate: int) -> Floats:
    """The level of each 20 ms in dB below full scale, (frames,). The last frame ends with the last sample; up to 20 ms before
    the first frame are left out."""
    size = max(1, int(FRAME_S * sample_rate))
    frames = samples[len(samples) % size :].reshape(-1, size) if len(samples) >= size else samples[None, :]
    power = np.einsum("fs,fs->f", frames, frames) / max(1, frames.shape[1])
    levels: Floats = (10 * np.log10(power + 10 ** (FLOOR_DB / 10))).astype(np.float32)
    return levels


def clipped_share(samples: Samples) -> float:
    """The share of samples in runs near the peak, 0 to 1."""
    peak = max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0)))
    if peak <= 0:
        return 0.0
    high = np.flatnonzero((samples >= NEAR_PEAK * peak) | (samples <= -NEAR_PEAK * peak))
    lengths = np.diff(np.flatnonzero(np.diff(high, prepend=-2, append=len(samples) + 1) > 1))
    return float(lengths[lengths >= CLIPPED_RUN].sum()) / len(samples)


def repetition(samples: Samples, sample_rate: int) -> float:
    """How similar two parts of `MIN_REPEAT_S` are at most: 1 for a copy, 0 for unrelated sounds.

    The cosine between mel spectra of two frames, averaged along parts that are a lag of `MIN_REPEAT_S` or more apart, and
    that sound for `MIN_SOUNDING` of their time.
    """
    frames = _features(samples, sample_rate)
    size = round(MIN_REPEAT_S / HOP_S)
    most = min(len(frames) - size, round(MAX_REPEAT_LAG_S / HOP_S))
    if most < size:
        return 0.0
    count = len(frames)
    alike = np.zeros((count, count + most + 1), np.float32)
    np.matmul(frames, frames.T, out=alike[:, :count])
    row, column = alike.strides
    # Row i of this view begins at frame i + size: its columns are lags.
    lags = np.lib.stride_tricks.as_strided(alike[:, size:], (count, most + 1 - size), (row + column, column))
    sounding = np.maximum(_moving_sums(np.any(frames, axis=1, keepdims=True)[:, 0], size), MIN_SOUNDING * size)
    return float((_moving_sums(lags, size) / sounding[:, None]).max())


def _moving_sums(values: NDArray[Any], size: int) -> Floats:
    """The sums of each `size` values in a row along the first axis."""
    sums: Floats = np.cumsum(values, axis=0, dtype=np.float32)
    sums[size:] -= sums[:-size].copy()
    return sums[size - 1 :]


def _sounding(levels: Floats) -> NDArray[np.intp]:
    """The numbers of the frames that are no pauses."""
    loud = float(np.percentile(levels, 95))
    return np.flatnonzero(levels > max(SILENT_DB, loud - QUIET_DB))


def _mean_db(levels: Floats) -> float:
    return float(10 * np.log10(np.mean(np.power(10.0, levels / 10))))


def _features(samples: Samples, sample_rate: int) -> Floats:
    """Mel spectra in dB without their mean, each of length 1, or 0 where nothing sounds: (frames, MELS)."""
    step = max(1, int(sample_rate // LEAST_RATE))
    samples, sample_rate = samples[::step], sample_rate // step  # two sounds that are alike are so with aliases, too
    hop, size = int(HOP_S * sample_rate), int(SPECTRUM_S * sample_rate)
    if len(samples) < size:
        return np.zeros((0, MELS), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop] * _window(size)
    waves = np.fft.rfft(frames, axis=1)
    spectra = np.square(waves.real) + np.square(waves.imag)
    levels = 10 * np.log10(spectra @ _filters(sample_rate, size) + 1e-8)
    sounds = spectra.sum(axis=1)
    heard = sounds > np.percentile(sounds, 95) * 10 ** (-QUIET_DB / 10)
    levels -= levels[heard].mean(axis=0) if heard.any() else 0.0
    lengths = np.linalg.norm(levels, axis=1)
    heard &= lengths > 1.0
    vectors: Floats = np.where(heard[:, None], levels / np.maximum(lengths, 1e-9)[:, None], 0.0).astype(np.float32)
    return vectors


@lru_cache
def _filters(sample_rate: int, size: int) -> Samples:
    return mel_filters(sample_rate, size, MELS)


@lru_cache
def _window(size: int) -> Floats:
    window: Floats = np.hanning(size).astype(np.float32)
    return window
