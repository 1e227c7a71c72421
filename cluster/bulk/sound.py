"""Sound to bytes, encoded while it is made, with its true length in the header."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from deployments.audio.encode import AudioFormat, open_encoder
from deployments.engines.base import Samples


class SoundBytes:
    """One sound at `sample_rate` Hz. Holds what is encoded, never the samples."""

    def __init__(self, form: AudioFormat, sample_rate: int, channels: int) -> None:
        self._layout = (form, sample_rate, channels)
        self._encoder = open_encoder(form, sample_rate, channels)
        self._body = bytearray()
        self._samples = 0

    @property
    def seconds(self) -> float:
        """Of sound so far."""
        return self._samples / self._layout[1]

    def write(self, samples: Samples) -> None:
        """Takes the next samples, (n,) or (channels, n)."""
        self._samples += samples.shape[-1]
        self._body += self._encoder.encode(samples)

    def finish(self) -> bytes:
        """The whole file."""
        self._body += self._encoder.finish()
        self._encoder.close()
        form, sample_rate, channels = self._layout
        with closing(open_encoder(form, sample_rate, channels, total_samples=self._samples)) as encoder:
            header = encoder.encode(np.zeros((channels, 0), np.float32))
        self._body[: len(header)] = header
        return bytes(self._body)

    def close(self) -> None:
        """Frees the codec of a sound that nobody finishes."""
        self._encoder.close()
