"""The engine that changes nothing: for tests, and for measuring everything around an engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deployments.engines.protocols import Chunk, EngineSpec, SeparationTraits, Stems
from deployments.errors import MotetError, fail

TRAITS = SeparationTraits(
    sample_rates=(8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000),
    stems=("audio",),
    takes_description=False,
    takes_reference=False,
)


class IdentityEngine:
    """Returns each chunk as its one stem, `audio`; the stem shares the chunk's memory."""

    @property
    def traits(self) -> SeparationTraits:
        """Any common rate, one stem."""
        return TRAITS

    def separate(self, chunks: Sequence[Chunk]) -> list[Stems | Exception]:
        """The chunks themselves, or a `MotetError` in place of one that is no sound."""
        return [
            refusal(chunk, TRAITS) or Stems({"audio": chunk.samples}, chunk.sample_rate, chunk.index)
            for chunk in chunks
        ]


def load(spec: EngineSpec) -> IdentityEngine:
    """The engine; it needs no weights, whatever `spec` says."""
    return IdentityEngine()


def refusal(chunk: Chunk, traits: SeparationTraits) -> MotetError | None:
    """Why an engine of these traits cannot take the chunk, or None when it can.

    A chunk must be (channels, n) float32, neither empty nor with NaN or infinity, at one of the engine's rates.
    """
    samples = chunk.samples
    if chunk.sample_rate not in traits.sample_rates:
        rates = ", ".join(map(str, traits.sample_rates))
        cause = f"The sound has {chunk.sample_rate} Hz, which this model does not take."
        return fail("invalid", cause, f"Resample it to one of {rates} Hz.", param="sample_rate")
    if samples.ndim != 2 or samples.dtype != np.float32 or samples.size == 0:
        cause = f"Chunk {chunk.index} is {samples.dtype} of shape {samples.shape}."
        return fail("invalid", cause, "Send float32 of shape (channels, samples), neither of them zero.", param="file")
    if not np.isfinite(samples).all():
        cause = f"Chunk {chunk.index} has samples that are not finite numbers."
        return fail("invalid", cause, "Send a recording whose samples lie in [-1, 1].", param="file")
    return None
