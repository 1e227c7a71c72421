"""Sample-rate conversion of a stream, piece by piece, with soxr."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import soxr

Float = NDArray[np.float32]


class Resampler:
    """Converts one stream from `source_rate` to `target_rate` Hz.

    Push pieces of any size, in order, then call `finish` once. Output and input have the same length in seconds. If the
    rates are equal, pieces are returned unchanged. Raises ValueError for a rate or a number of channels below 1.

    `prompt` is for live sound: the filter then holds the same time back after every piece, 10 ms from 24 to 16 kHz and 30 ms
    from 8 to 16 kHz. Otherwise it works in blocks, which hold back up to 38 and 115 ms; that is more exact: a prompt filter
    shifts the sound by `prompt_shift_s`, some 0.1 ms.
    """

    def __init__(self, source_rate: int, target_rate: int, channels: int = 1, *, prompt: bool = False) -> None:
        if source_rate <= 0 or target_rate <= 0 or channels <= 0:
            raise ValueError(f"Cannot resample {channels} channels from {source_rate} Hz to {target_rate} Hz.")
        self._channels = channels
        self._flat = channels == 1
        self._stream: soxr.ResampleStream | None = None
        if source_rate != target_rate:
            import soxr  # voices run without it as long as no clip has another rate

            self._stream = soxr.ResampleStream(source_rate, target_rate, channels, dtype="float32", vr=prompt)

    def push(self, samples: Float) -> Float:
        """Takes the next float32 piece, (channels, n), or (n,) of a mono stream. Returns what is ready, in the same shape.

        The filter looks ahead, so the first pieces may return fewer samples, or none. Raises ValueError if the piece does not
        have the stream's channels.
        """
        rows = samples.reshape(1, -1) if samples.ndim == 1 else samples
        if rows.ndim != 2 or rows.shape[0] != self._channels:
            raise ValueError(f"Expected ({self._channels}, n) samples, got an array of shape {samples.shape}.")
        self._flat = samples.ndim == 1
        return samples if self._stream is None else self._convert(self._stream, rows, last=False)

    def finish(self) -> Float:
        """Ends the stream and returns the samples that the filter held back. Push nothing afterwards."""
        rest = np.zeros((self._channels, 0), np.float32)
        if self._stream is not None:
            return self._convert(self._stream, rest, last=True)
        return rest[0] if self._flat else rest

    def _convert(self, stream: soxr.ResampleStream, rows: Float, *, last: bool) -> Float:
        # soxr takes (samples, channels), and a flat array for one channel.
        if self._channels == 1:
            out: Float = stream.resample_chunk(np.ascontiguousarray(rows[0]), last=last)
            return out if self._flat else out.reshape(1, -1)
        out = stream.resample_chunk(np.ascontiguousarray(rows.T), last=last)
        return np.ascontiguousarray(out.T)


SHIFT_TONE_S = 0.1
"""The length of the tone by which the shift of prompt filters is measured."""


@lru_cache(256)
def prompt_shift_s(source_rate: int, target_rate: int) -> float:
    """By how many seconds a `prompt` filter between these rates shifts the sound: from the phase of a tone in its output."""
    hertz = min(source_rate, target_rate) / 40
    tone = np.sin(2 * np.pi * hertz * np.arange(int(SHIFT_TONE_S * source_rate)) / source_rate).astype(np.float32)
    resampler = Resampler(source_rate, target_rate, prompt=True)
    shifted = np.concatenate([resampler.push(tone), resampler.finish()])
    middle = slice(len(shifted) // 4, 3 * len(shifted) // 4)
    wave = np.exp(-2j * np.pi * hertz * np.arange(len(shifted)) / target_rate)[middle]
    # A tone that is late by t is sin(w (x - t)): its component has the phase -w t - pi / 2.
    return float(-(np.angle(np.sum(shifted[middle] * wave)) + np.pi / 2) / (2 * np.pi * hertz))


def resample(samples: Float, source_rate: int, target_rate: int) -> Float:
    """All of `samples`, float32 (n,) or (channels, n), at `target_rate` Hz, in the same shape."""
    channels = 1 if samples.ndim == 1 else samples.shape[0]
    resampler = Resampler(source_rate, target_rate, channels)
    return np.concatenate([resampler.push(samples), resampler.finish()], axis=-1)


def resampled_length(samples: int, source_rate: int, target_rate: int) -> int:
    """The number of samples that a `Resampler` returns for a stream of `samples`. It divides and rounds as soxr does, so that
    halves are rounded alike."""
    return int(samples / (source_rate / target_rate) + 0.5)


def rate_for(source_rate: int, offered: Sequence[int]) -> int:
    """The lowest of a model's rates, in Hz, that is not below the source's, or the model's highest."""
    return min((rate for rate in offered if rate >= source_rate), default=max(offered))
