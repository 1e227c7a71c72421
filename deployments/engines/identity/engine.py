"""The engine that changes nothing: for tests, and to measure everything around an engine."""

from __future__ import annotations

import time
from collections.abc import Sequence

from deployments.engines.protocols import Chunk, EngineSpec, SeparationTraits, Stems
from deployments.engines.separation import chunk_error
from deployments.errors import fail

TRAITS = SeparationTraits(
    sample_rates=(8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000),
    stems=("audio",),
    takes_description=False,
    takes_reference=False,
)


class IdentityEngine:
    """Returns each chunk as its one stem, `audio`; the stem shares the chunk's memory. A chunk takes `chunk_ms`, as if
    something were computed."""

    def __init__(self, chunk_ms: float = 0.0) -> None:
        self._chunk_s = chunk_ms / 1000

    @property
    def traits(self) -> SeparationTraits:
        """Any common sample rate, one stem."""
        return TRAITS

    def separate(self, chunks: Sequence[Chunk]) -> list[Stems | Exception]:
        """The chunks themselves, or a `MotetError` in place of an invalid one."""
        time.sleep(self._chunk_s * len(chunks))
        return [
            chunk_error(chunk, TRAITS) or Stems({"audio": chunk.samples}, chunk.sample_rate, chunk.index)
            for chunk in chunks
        ]


def load(spec: EngineSpec) -> IdentityEngine:
    """The engine. It has no weights. Raises `MotetError` (invalid) if the option `chunk_ms` is negative or not a number."""
    chunk_ms = spec.options.get("chunk_ms", 0.0)
    if not (isinstance(chunk_ms, int | float) and chunk_ms >= 0):
        raise fail(
            "invalid", f"chunk_ms is {chunk_ms!r}.", "Give a number of milliseconds, 0 or more.", param="options"
        )
    return IdentityEngine(float(chunk_ms))
