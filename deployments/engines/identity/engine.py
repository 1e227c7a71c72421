"""The engine that changes nothing: for tests, and to measure everything around an engine."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.engines.protocols import Chunk, EngineSpec, SeparationTraits, Stems
from deployments.engines.separation import chunk_error

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
        """Any common sample rate, one stem."""
        return TRAITS

    def separate(self, chunks: Sequence[Chunk]) -> list[Stems | Exception]:
        """The chunks themselves, or a `MotetError` in place of an invalid one."""
        return [
            chunk_error(chunk, TRAITS) or Stems({"audio": chunk.samples}, chunk.sample_rate, chunk.index)
            for chunk in chunks
        ]


def load(spec: EngineSpec) -> IdentityEngine:
    """The engine. It has no weights and ignores `spec`."""
    return IdentityEngine()
