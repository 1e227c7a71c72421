"""Encodes sound while it is made, into a file with its true length in the header."""

from __future__ import annotations

import io
from contextlib import closing
from dataclasses import dataclass

from cluster.bulk.spooled_bytes import Data, SpooledBytes
from deployments.audio.decode import AudioDecoder
from deployments.audio.encode import header_of, open_encoder
from deployments.audio.formats import AudioFormat
from deployments.engines.protocols import Samples

WITH_LENGTH: tuple[AudioFormat, ...] = ("wav", "wav_mulaw", "wav_alaw", "flac")
"""Formats whose header has the length. No codec adds samples to them, so the samples can be counted as well."""
HOURS_S = 24 * 3600.0


class SoundBytes:
    """One encoded sound, from samples at `source_rate` Hz. It holds no samples. The encoded bytes of a long sound are in a
    temporary file. See `open_encoder`."""

    def __init__(self, form: AudioFormat, source_rate: int, channels: int, sample_rate: int | None = None) -> None:
        self._format = form
        self._channels = channels
        self._source_rate = source_rate
        self._encoder = open_encoder(form, source_rate, channels, sample_rate=sample_rate)
        self._body = SpooledBytes()
        self._samples = 0

    @property
    def seconds(self) -> float:
        """Seconds of sound so far."""
        return self._samples / self._source_rate

    @property
    def sample_rate(self) -> int:
        """The rate of the encoded sound, in Hz."""
        return self._encoder.sample_rate

    def write(self, samples: Samples) -> None:
        """Takes the next samples, (n,) or (channels, n)."""
        self._samples += samples.shape[-1]
        self._body.write(self._encoder.encode(samples))

    def finish(self) -> Data:
        """The whole file."""
        self._body.write(self._encoder.finish())
        self._encoder.close()
        return self._body.finish(
            header_of(self._format, self._encoder.sample_rate, self._channels, self._encoder.written)
        )

    def close(self) -> None:
        """Frees the codec. Safe to call after `finish`, whose result stays."""
        self._encoder.close()
        self._body.close()


@dataclass(frozen=True, slots=True)
class SoundLength:
    """Encoded sound: samples per channel, their rate in Hz, and channels."""

    samples: int
    sample_rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.samples / self.sample_rate


def length_of(data: bytes) -> SoundLength:
    """Decodes a sound and counts its samples. Raises `MotetError` if the data is not audio."""
    with closing(AudioDecoder(io.BytesIO(data), mono=True, max_seconds=HOURS_S)) as decoder:
        samples = sum(block.shape[1] for block in decoder)
        return SoundLength(samples, decoder.info.sample_rate, decoder.info.channels)


def with_length(data: bytes, form: AudioFormat, size: SoundLength) -> bytes:
    """A streamed sound, in one of the formats `WITH_LENGTH`, with its true length in the header. It is byte-identical to what
    `SoundBytes` makes of the same samples."""
    header = header_of(form, size.sample_rate, size.channels, size.samples)
    return header + data[len(header) :]
