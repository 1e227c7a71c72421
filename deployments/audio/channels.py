"""Makes one channel of several, so that sound in opposite phase does not vanish."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deployments.audio.resample import Resampler
from deployments.audio.sound_decoder import SoundDecoder
from deployments.engines.protocols import Samples

Channels = Literal["mix", "separate"]
"""Whether several channels become one, or each is a recording of its own."""

MEMORY = 0.3
"""How much of the last blocks' products counts beside a new block: so little that one block in opposite phase decides."""
OPPOSITE = 0.3
"""A channel is turned over where its correlation with the loudest one is below minus this, and back above it. Channels with
little in common lie between, such as two speakers with a microphone each."""
INAUDIBLE = 1e-4
"""A channel with this share of the loudest one's energy is left out, so that an unused channel does not halve the level."""
FADE_SECONDS = 0.02
"""How long a change of the channels' weights takes, so that it does not click."""

Doubles = NDArray[np.float64]


def read_channels(decoder: SoundDecoder, sample_rate: int, channels: Channels) -> Iterator[Samples]:
    """The sound of a decoder that keeps the file's rate and channels: blocks (rows, n) at `sample_rate` Hz, of one row if the
    channels are mixed. Raises what the decoder raises."""
    rate, count = decoder.info.sample_rate, decoder.info.channels
    mixer = ChannelMixer(rate, count)
    resampler = Resampler(rate, sample_rate, 1 if channels == "mix" else count)
    for block in decoder:
        yield resampler.push(mixer.push(block)[np.newaxis] if channels == "mix" else block)
    yield resampler.finish()


class ChannelMixer:
    """Mixes the channels of one stream at `sample_rate` Hz: the mean of those that are heard, each with the sign that agrees
    with the loudest one. Only the relation of the channels in the last blocks decides."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._fade = max(1, int(FADE_SECONDS * sample_rate))
        self._products: Doubles = np.zeros((channels, channels))
        self._signs: Doubles = np.ones(channels)
        self._weights: Doubles | None = None

    def push(self, samples: Samples) -> Samples:
        """Takes the next (channels, n) samples, about a second of them, and returns (n,)."""
        if len(samples) == 1:
            only: Samples = samples[0]
            return only
        wide = samples.astype(np.float64)
        self._products = MEMORY * self._products + wide @ wide.T
        weights = self._weights_now()
        before = weights if self._weights is None else self._weights
        self._weights = weights
        mixed: Samples = (weights @ wide).astype(np.float32)
        if not np.array_equal(before, weights):
            faded = wide[:, : self._fade]
            share = np.linspace(0.0, 1.0, faded.shape[1], endpoint=False)
            mixed[: self._fade] = (1 - share) * (before @ faded) + share * (weights @ faded)
        return mixed

    def _weights_now(self) -> Doubles:
        energy = np.diag(self._products)
        loudest = int(np.argmax(energy))
        heard = (energy >= INAUDIBLE * energy[loudest]) & (energy > 0)
        if not heard.any():
            return self._signs / len(self._signs)
        norm = np.sqrt(energy * energy[loudest])
        correlation = np.divide(self._products[loudest], norm, out=np.zeros(len(energy)), where=heard)
        agrees = np.where(np.abs(correlation) > OPPOSITE, np.sign(correlation), self._signs * self._signs[loudest])
        self._signs = np.where(heard, agrees * self._signs[loudest], self._signs)
        weights: Doubles = self._signs * heard / heard.sum()
        return weights
