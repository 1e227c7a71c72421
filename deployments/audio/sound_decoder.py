"""What decodes a recording: in this process (`decode.py`) or in one of its own (`isolated_decode.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deployments.audio.file_source import ByteSource

Float = NDArray[np.float32]

BLOCK_SECONDS = 1.0
"""The length of a block that a decoder gives, where the caller does not say."""


def decoded_bytes(seconds: float, sample_rate: int, channels: int) -> int:
    """The bytes of decoded sound, which is float32."""
    return int(seconds * sample_rate * channels * np.dtype(np.float32).itemsize)


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """A file's rate in Hz, its channels, and FFmpeg's name of its codec ("mp3", "pcm_s16le")."""

    sample_rate: int
    channels: int
    codec: str


class SoundDecoder(Protocol):
    """An opened recording. See `AudioDecoder`."""

    @property
    def info(self) -> AudioInfo:
        """What the file says of its sound."""

    def __iter__(self) -> Iterator[Float]:
        """The sound, once."""

    def close(self) -> None:
        """Frees the codec. Safe to call twice."""


class OpenDecoder(Protocol):
    """Opens a recording. See `AudioDecoder` for the arguments and the errors."""

    def __call__(
        self,
        file: ByteSource | bytes,
        *,
        sample_rate: int | None = None,
        mono: bool,
        max_seconds: float,
        block_seconds: float = BLOCK_SECONDS,
        size_bytes: int | None = None,
    ) -> SoundDecoder:
        """The decoder."""
