"""Encodes sound sample by sample: 16-bit PCM and 8-bit G.711, without a header or in a WAV."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deployments.audio import g711
from deployments.audio.pcm import to_int16
from deployments.audio.resample import Resampler

Float = NDArray[np.float32]

SampleCoding = Literal["pcm", "mulaw", "alaw"]

# A WAV header must have a length, even if it is not known yet. Readers such as Python's `wave` read it as a signed 32-bit
# number, so this is the largest file. They stop at the true end by themselves.
STREAMED_WAV_BYTES = 2**31 - 1
LARGEST_WAV_BYTES = 2**32 - 1
"""What the header of a WAV can state. Readers stop there, if the file is longer."""


@dataclass(frozen=True, slots=True)
class _Coding:
    wav_tag: int
    """The number of the coding in a WAV header."""
    header_bytes: int
    """Of a WAV."""
    sample_bytes: int
    law: g711.Law | None = None

    def encode(self, samples: NDArray[np.int16]) -> bytes:
        """The bytes of interleaved samples."""
        return samples.tobytes() if self.law is None else g711.encode(samples, self.law)


_CODINGS = {"pcm": _Coding(1, 44, 2), "mulaw": _Coding(7, 58, 1, "mu"), "alaw": _Coding(6, 58, 1, "a")}


def wav_header(
    sample_rate: int, channels: int, total_samples: int | None = None, coding: SampleCoding = "pcm"
) -> bytes:
    """The bytes before the samples of a WAV: 44 for PCM, 58 for G.711. They state the largest safe length if `total_samples`
    per channel is not known, or does not fit a WAV."""
    known = _CODINGS[coding]
    frame = known.sample_bytes * channels
    total = (STREAMED_WAV_BYTES - known.header_bytes) // frame
    if total_samples is not None and known.header_bytes + total_samples * frame <= LARGEST_WAV_BYTES:
        total = total_samples
    fields = (known.wav_tag, channels, sample_rate, sample_rate * frame, frame, 8 * known.sample_bytes)
    form = struct.pack("<HHIIHH", *fields)
    chunks = _chunk(b"fmt ", form)
    if known.law is not None:  # codings other than PCM have the size of an extension, and their length in samples
        chunks = _chunk(b"fmt ", form + bytes(2)) + _chunk(b"fact", struct.pack("<I", total))
    riff = struct.pack("<4sI4s", b"RIFF", known.header_bytes - 8 + total * frame, b"WAVE")
    return riff + chunks + struct.pack("<4sI", b"data", total * frame)


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body


class SampleEncoder:
    """Interleaved samples of one coding after an optional header, at `sample_rate` Hz. See `Encoder`."""

    def __init__(
        self, coding: SampleCoding, source_rate: int, sample_rate: int, channels: int, header: bytes = b""
    ) -> None:
        self.sample_rate = sample_rate
        self.written = 0
        self.reached = 0
        self._coding = _CODINGS[coding]
        self._source_rate = source_rate
        self._resampler = Resampler(source_rate, sample_rate, channels)
        self._channels = channels
        self._header = header
        self._taken = 0
        self._ended = False

    def encode(self, samples: Float) -> bytes:
        """See `Encoder.encode`. The first call returns the header too."""
        refuse_if(self._ended)
        rows = rows_of(samples, self._channels)
        self._taken += rows.shape[1]
        return self._take_header() + self._coded(self._resampler.push(without_bad_numbers(rows)))

    def finish(self) -> bytes:
        """Ends the stream. Returns what the resampler held back, and the header if nothing was encoded before."""
        if self._ended:
            return b""
        self._ended = True
        data = self._take_header() + self._coded(rows_of(self._resampler.finish(), self._channels))
        self.reached = self._taken
        return data

    def close(self) -> None:
        """Ends the stream."""
        self._ended = True
        self._header = b""

    def _coded(self, rows: Float) -> bytes:
        self.written += rows.shape[1]
        self.reached = min(self._taken, self.written * self._source_rate // self.sample_rate)
        return self._coding.encode(to_int16(rows).T.reshape(-1))

    def _take_header(self) -> bytes:
        header, self._header = self._header, b""
        return header


def refuse_if(ended: bool) -> None:
    """Raises ValueError if a stream has ended."""
    if ended:
        raise ValueError("This stream has ended; open a new encoder.")


def rows_of(samples: Float, channels: int) -> Float:
    """Samples (n,) or (channels, n) as (channels, n). Mono samples go to all channels. Raises ValueError for other shapes."""
    rows = samples.reshape(1, -1) if samples.ndim == 1 else samples
    if rows.ndim != 2 or rows.shape[0] not in (1, channels):
        raise ValueError(f"Expected (n,) or ({channels}, n) samples, got an array of shape {samples.shape}.")
    return np.broadcast_to(rows, (channels, rows.shape[1]))


def without_bad_numbers(samples: Float) -> Float:
    """The samples with NaN as silence and infinity as full scale: one bad number would stay in a codec's memory for the rest
    of the stream."""
    return np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)
