"""The sound of a live enhancement between the client's 16-bit samples and the blocks that a model takes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deployments.audio.pcm import to_float, to_int16
from deployments.audio.resample import Resampler, prompt_shift_s
from deployments.engines.protocols import LiveBlocks, Samples

MOST_BLOCKS_S = 1.0
"""The most sound of one call to a model."""


PART_S = 0.2


class EnhancementSound:
    """Sound in, as blocks to a model, and back. What comes back has as many samples as went in, each in its place: what the
    model and the resampling are late by is cut off at the start, and silence after the end brings out the rest.

    The client's sound is 16-bit little-endian at `rate` Hz, with its channels interleaved. Messages may be cut anywhere.
    """

    def __init__(self, rate: int, channels: int, blocks: LiveBlocks) -> None:
        self._rate = rate
        self._channels = channels
        self._blocks = blocks
        self._to_model = Resampler(rate, blocks.sample_rate, channels, prompt=True)
        self._to_client = Resampler(blocks.sample_rate, rate, channels, prompt=True)
        self._bytes = b""
        """The beginning of a sample."""
        self._waiting = np.zeros((channels, 0), np.float32)
        shift_s = prompt_shift_s(rate, blocks.sample_rate) + prompt_shift_s(blocks.sample_rate, rate)
        self._all_late = blocks.late_samples + round(shift_s * blocks.sample_rate)
        self._late = self._all_late
        """Samples still to be cut off."""
        self._left: int | None = None
        """The model's samples that are still to come back, once it is known."""
        self._model_samples = self._model_returned = 0
        self._pushed = self._returned = 0
        self.complete = False
        """Whether all of the sound has come back."""

    @property
    def ahead_s(self) -> float:
        """Sound that was pushed and has not come back, in seconds."""
        return (self._pushed - self._returned) / self._rate

    def seconds_of(self, data: bytes) -> float:
        """The duration of sound in the client's form."""
        return len(data) / (2 * self._channels * self._rate)

    @property
    def seconds(self) -> float:
        """Sound that was pushed, in seconds."""
        return self._pushed / self._rate

    def parts(self, data: bytes) -> Iterator[bytes]:
        """The sound in parts that take under a millisecond to push."""
        size = int(PART_S * self._rate) * 2 * self._channels
        return (data[start : start + size] for start in range(0, len(data), size))

    def push(self, data: bytes) -> None:
        """Adds the client's next sound."""
        data = self._bytes + data
        whole = len(data) // (2 * self._channels) * 2 * self._channels
        self._bytes = data[whole:]
        samples = np.frombuffer(data[:whole], "<i2").reshape(-1, self._channels).T
        self._pushed += samples.shape[1]
        self._add(self._to_model.push(to_float(samples)))

    def end(self) -> None:
        """No more sound comes. Half a sample at the end is dropped."""
        self._add(self._to_model.finish())
        self._left = self._model_samples - self._model_returned
        block = self._blocks.block_samples
        whole = -(-(self._model_samples + self._all_late) // block) * block
        self.complete = not whole
        self._add(np.zeros((self._channels, whole - self._model_samples), np.float32))

    def take(self) -> Samples:
        """The next whole blocks for the model, (channels, n); n is 0 if there are none."""
        most = int(MOST_BLOCKS_S * self._blocks.sample_rate)
        size = min(self._waiting.shape[1], most) // self._blocks.block_samples * self._blocks.block_samples
        taken, self._waiting = self._waiting[:, :size], self._waiting[:, size:]
        return taken

    def returned(self, enhanced: Samples) -> bytes:
        """What the client gets for blocks that came back, in order."""
        cut = min(self._late, enhanced.shape[1])
        self._late -= cut
        samples = enhanced[:, cut:]
        if self._left is None:
            self._model_returned += samples.shape[1]
            return self._sent(self._to_client.push(samples))
        samples = samples[:, : self._left]
        self._left -= samples.shape[1]
        last = self._to_client.push(samples)
        if self._left:
            return self._sent(last)
        self.complete = True
        return self._sent(
            self._fitted(np.concatenate([last, self._to_client.finish().reshape(self._channels, -1)], axis=1))
        )

    def _add(self, samples: Samples) -> None:
        samples = samples.reshape(self._channels, -1)
        self._model_samples += samples.shape[1]
        self._waiting = np.concatenate([self._waiting, samples], axis=1)

    def _fitted(self, samples: Samples) -> Samples:
        """The last samples, so that as many come back as went in: resampling twice may round to one more or less."""
        size = self._pushed - self._returned
        return np.pad(samples[:, :size], ((0, 0), (0, max(0, size - samples.shape[1]))))

    def _sent(self, samples: Samples) -> bytes:
        samples = samples[:, : self._pushed - self._returned]
        self._returned += samples.shape[1]
        return to_int16(np.ascontiguousarray(samples.T)).tobytes()
