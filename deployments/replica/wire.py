"""Sound between deployments as 16-bit samples, half the bytes of float32.

Every format that leaves the service has 16 bits or fewer, so the client loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deployments.audio.pcm import to_float, to_int16
from deployments.engines.protocols import AudioChunk, FinishReason, SpokenWord


@dataclass(frozen=True, slots=True)
class PackedChunk:
    """An `AudioChunk` with its samples as little-endian 16-bit integers.

    `waited_s` is how long the stream waited for the steps that made it, `step_s` how long those steps took.
    """

    samples: bytes
    sample_rate: int
    index: int
    text: str
    last: bool
    waited_s: float = 0.0
    step_s: float = 0.0
    finish_reason: FinishReason = "stop"
    piece_over: bool = True
    words: tuple[SpokenWord, ...] = ()


def pack(chunk: AudioChunk, waited_s: float = 0.0, step_s: float = 0.0) -> PackedChunk:
    """Packs a chunk for the way to another deployment. Samples beyond full scale are clipped."""
    return PackedChunk(
        to_int16(chunk.samples).tobytes(),
        chunk.sample_rate,
        chunk.index,
        chunk.text,
        chunk.last,
        waited_s,
        step_s,
        chunk.finish_reason,
        chunk.piece_over,
        chunk.words,
    )


def unpack(packed: PackedChunk) -> AudioChunk:
    """The chunk with float32 samples again."""
    return AudioChunk(
        to_float(np.frombuffer(packed.samples, "<i2")),
        packed.sample_rate,
        packed.index,
        packed.text,
        packed.last,
        finish_reason=packed.finish_reason,
        piece_over=packed.piece_over,
        words=packed.words,
    )
