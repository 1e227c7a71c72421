"""Sample-rate conversion of a stream, piece by piece, with soxr."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import soxr

Float = NDArray[np.float32]


class Resampler:
    """Converts one stream from `source_rate` to `target_rate` Hz.

    Push pieces of any size, in order, then call `finish` once. All pieces together, in and out, are as long as each
    other in seconds. Equal rates hand every piece through untouched.
    """

    def __init__(self, source_rate: int, target_rate: int, channels: int = 1) -> None:
        if source_rate <= 0 or target_rate <= 0 or channels <= 0:
            raise ValueError(f"Cannot resample {channels} channels from {source_rate} Hz to {target_rate} Hz.")
        self._channels = channels
        self._flat = channels == 1
        self._stream: soxr.ResampleStream | None = None
        if source_rate != target_rate:
            import soxr  # voices also run where it is not installed, as long as no clip has another rate

            self._stream = soxr.ResampleStream(source_rate, target_rate, channels, dtype="float32")

    def push(self, samples: Float) -> Float:
        """Takes the next float32 piece, (channels, n), or (n,) of a mono stream; returns what is ready, laid out alike.

        The filter looks ahead, so the first pieces may bring back fewer samples, or none. Raises ValueError when the
        piece does not have this stream's channels.
        """
        rows = samples.reshape(1, -1) if samples.ndim == 1 else samples
        if rows.ndim != 2 or rows.shape[0] != self._channels:
            raise ValueError(f"Expected ({self._channels}, n) samples, got an array of shape {samples.shape}.")
        self._flat = samples.ndim == 1
        return samples if self._stream is None else self._convert(self._stream, rows, last=False)

    def finish(self) -> Float:
        """Ends the stream and returns the samples that the filter still held. Push nothing afterwards."""
        rest = np.zeros((self._channels, 0), np.float32)
        if self._stream is not None:
            return self._convert(self._stream, rest, last=True)
        return rest[0] if self._flat else rest

    def _convert(self, stream: soxr.ResampleStream, rows: Float, *, last: bool) -> Float:
        # soxr wants samples first, and a flat array when there is one channel.
        if self._channels == 1:
            out: Float = stream.resample_chunk(np.ascontiguousarray(rows[0]), last=last)
            return out if self._flat else out.reshape(1, -1)
        out = stream.resample_chunk(np.ascontiguousarray(rows.T), last=last)
        return np.ascontiguousarray(out.T)


def resample(samples: Float, source_rate: int, target_rate: int) -> Float:
    """All of `samples`, float32 (n,) or (channels, n), at `target_rate` Hz, laid out alike."""
    channels = 1 if samples.ndim == 1 else samples.shape[0]
    resampler = Resampler(source_rate, target_rate, channels)
    return np.concatenate([resampler.push(samples), resampler.finish()], axis=-1)


def rate_for(source_rate: int, offered: Sequence[int]) -> int:
    """The lowest rate in Hz that a model takes and that loses nothing of the source, or the model's highest."""
    return min((rate for rate in offered if rate >= source_rate), default=max(offered))
