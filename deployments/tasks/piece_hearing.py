"""Hears a piece with a recogniser in this process, to verify its words."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.engines.protocols import RecognitionEngine, Samples
from deployments.tasks.piece_windows import can_verify, transcripts_of, windows_of_piece


@dataclass(frozen=True, slots=True)
class EngineHearing:
    """A recogniser on the caller's thread. See `PieceHearing`."""

    engine: RecognitionEngine

    async def heard(self, samples: Samples, sample_rate: int, language: str) -> str | None:
        """See `PieceHearing`. Raises what the engine returns."""
        traits = self.engine.traits
        if not can_verify(traits, language):
            return None
        windows = windows_of_piece(samples, sample_rate, traits, language)
        return " ".join(transcript.text for transcript in transcripts_of(self.engine, windows))
