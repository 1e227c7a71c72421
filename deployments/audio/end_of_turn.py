"""The probability that a speaker has finished, from how the last seconds sound: the network smart-turn.

Smart-turn v3 (https://github.com/pipecat-ai/smart-turn) is the encoder of Whisper tiny with a classifier, in 8 bits. Its ONNX
file comes in the wheel `pipecat-ai`, BSD-2-Clause. None of the wheel's code is used.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from deployments.audio.mel_filters import mel_filters
from deployments.audio.wheel_files import wheel_file
from deployments.engines.protocols import Samples

WHEEL = "pipecat-ai"
ONNX_FILE = "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx"
SHA256 = "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f"

SAMPLE_RATE = 16_000
WINDOW = 8 * SAMPLE_RATE
"""Samples that the network hears: the last 8 s."""
FFT_SAMPLES = 400
HOP = 160
MELS = 80
LEAST_VARIANCE = 1e-7
LEAST_ENERGY = 1e-10
DYNAMIC_RANGE = 8.0
"""Powers of ten below the loudest energy at which quieter ones are cut off, as in Whisper."""


class EndOfTurn:
    """Sound to the probability that its speaker has finished."""

    def __init__(self, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # 27 MB after ten runs instead of 38, at the same speed
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def probability(self, turn: Samples) -> float:
        """For the mono (n,) samples of a turn at 16 kHz. They end with about 0.2 s of silence, as in the training data.

        Only the last 8 s are heard; what is missing at the beginning counts as silence. A run takes 80 to 90 ms on an AMD
        Zen 3 core, of which 6 ms are for the energies. A batch takes as long as its rows one after another, and 29 MB a row.
        """
        features = log_mel_energies(turn)[np.newaxis]
        return float(self._session.run(None, {"input_features": features})[0].item())


@cache
def shared_end_of_turn() -> EndOfTurn:
    """The network of this process, loaded at the first call.

    Raises `MotetError` (unavailable) if its wheel is not installed or its file is not the expected one.
    """
    return EndOfTurn(wheel_file(WHEEL, ONNX_FILE, SHA256, "The end of turns cannot be recognised."))


def log_mel_energies(samples: Samples) -> Samples:
    """Whisper's log mel energies (80, 800) of the last 8 s of mono (n,) samples at 16 kHz, scaled to mean 0 and variance 1
    before."""
    window = np.zeros(WINDOW, np.float32)
    last = samples[-WINDOW:]
    window[WINDOW - len(last) :] = last
    window = (window - window.mean()) / np.sqrt(window.var() + LEAST_VARIANCE)
    padded = np.pad(window, FFT_SAMPLES // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT_SAMPLES)[::HOP][: WINDOW // HOP]
    power = np.square(np.abs(np.fft.rfft(frames * _frame_window(), axis=-1)))
    logs = np.log10(np.maximum(power @ _filters(), LEAST_ENERGY)).T
    energies: Samples = ((np.maximum(logs, logs.max() - DYNAMIC_RANGE) + 4.0) / 4.0).astype(np.float32)
    return energies


@cache
def _frame_window() -> Samples:
    """A periodic Hann window."""
    window: Samples = np.hanning(FFT_SAMPLES + 1)[:-1].astype(np.float32)
    return window


@cache
def _filters() -> Samples:
    return mel_filters(SAMPLE_RATE, FFT_SAMPLES, MELS)
