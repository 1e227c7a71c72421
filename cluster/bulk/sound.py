"""Sound to bytes, encoded while it is made, with its true length in the header."""

from __future__ import annotations

import io
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from deployments.audio.decode import AudioDecoder
from deployments.audio.encode import AudioFormat, open_encoder
from deployments.engines.protocols import Samples

WITH_LENGTH: tuple[AudioFormat, ...] = ("wav", "flac")
"""Formats whose header tells how long the sound is. They keep its samples, so it can be counted as well."""
HOURS_S = 24 * 3600.0


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
        header = _header(*self._layout, self._samples)
        self._body[: len(header)] = header
        return bytes(self._body)

    def close(self) -> None:
        """Frees the codec of a sound that nobody finishes."""
        self._encoder.close()


def _header(form: AudioFormat, sample_rate: int, channels: int, samples: int) -> bytes:
    with closing(open_encoder(form, sample_rate, channels, total_samples=samples)) as encoder:
        return encoder.encode(np.zeros((channels, 0), np.float32))


@dataclass(frozen=True, slots=True)
class SoundLength:
    """Encoded sound: samples per channel, their rate in Hz, and channels."""

    samples: int
    sample_rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.samples / self.sample_rate


def length_of(data: bytes) -> SoundLength:
    """Decodes a sound and counts. Raises `MotetError` when it is none."""
    with closing(AudioDecoder(io.BytesIO(data), mono=True, max_seconds=HOURS_S)) as decoder:
        samples = sum(block.shape[1] for block in decoder)
        return SoundLength(samples, decoder.info.sample_rate, decoder.info.channels)


def with_length(data: bytes, form: AudioFormat, size: SoundLength) -> bytes:
    """A sound of one of the formats `WITH_LENGTH` that was streamed, with its true length in the header: byte for byte what
    `SoundBytes` makes of the same samples."""
    header = _header(form, size.sample_rate, size.channels, size.samples)
    return header + data[len(header) :]
