"""What happened to one stream of speech between its engine and its client."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.engines.protocols import FinishReason


@dataclass(slots=True)
class PacingReport:
    """The stream so far. Seconds are of audio."""

    sent_seconds: float = 0.0
    concealed_seconds: float = 0.0
    concealments: int = 0
    underruns: int = 0
    fallback_piece: int | None = None
    """The piece of the text at which the fallback voice took over: the one that the late engine was speaking, which is spoken
    again as a whole, or had not started."""
    least_lead_seconds: float | None = None
    """The least audio that the client had ahead of playback when the next audio left. None for a stream sent at once."""
    finish_reason: FinishReason = "stop"
    """Why the first piece that did not end by itself was ended."""
    all_made: bool = False
    """Whether the last chunk has arrived, sent or not."""

    @property
    def fallback(self) -> bool:
        """Whether the fallback voice has taken over."""
        return self.fallback_piece is not None
