"""Sound between deployments as 16-bit samples, half the bytes of float32.

Every format that leaves the service has 16 bits or fewer, so the client loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deployments.engines.protocols import AudioChunk, FinishReason

FULL_SCALE = 32768.0
"""The scale of the encoders, so that packing a sample twice does not change it."""


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


def pack(chunk: AudioChunk, waited_s: float = 0.0, step_s: float = 0.0) -> PackedChunk:
    """Packs a chunk for the way to another deployment. Samples beyond full scale are clipped."""
    scaled = np.rint(chunk.samples * FULL_SCALE)
    samples = np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype("<i2").tobytes()
    return PackedChunk(
        samples,
        chunk.sample_rate,
        chunk.index,
        chunk.text,
        chunk.last,
        waited_s,
        step_s,
        chunk.finish_reason,
        chunk.piece_over,
    )


def unpack(packed: PackedChunk) -> AudioChunk:
    """The chunk with float32 samples again."""
    samples = np.frombuffer(packed.samples, "<i2").astype(np.float32) / np.float32(FULL_SCALE)
    return AudioChunk(
        samples,
        packed.sample_rate,
        packed.index,
        packed.text,
        packed.last,
        finish_reason=packed.finish_reason,
        piece_over=packed.piece_over,
    )
