"""How the gateway checks the pieces of a stream, and what it tells the client about them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from deployments.engines.protocols import RecognitionTraits, Samples, SpeechTraits
from deployments.errors import MotetError
from deployments.tasks.piece_checks import PieceChecks, inline
from deployments.tasks.piece_quality import PieceQuality, QualitySummary
from deployments.tasks.piece_windows import can_verify, windows_of_piece
from serve_app.gateway.routing.directory import ModelDirectory
from serve_app.gateway.speech.plan import SpeechPlan

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReplicaHearing:
    """A recognition model of the service. See `PieceHearing`."""

    directory: ModelDirectory
    model: str

    async def heard(self, samples: Samples, sample_rate: int, language: str) -> str | None:
        """See `PieceHearing`. A recogniser that refuses or is lost does not end the speech: the piece is not heard."""
        try:
            traits: RecognitionTraits = await self.directory.traits(self.model)
            if not can_verify(traits, language):
                return None
            windows = await asyncio.to_thread(windows_of_piece, samples, sample_rate, traits, language)
            calls = (self.directory.call(self.model, "transcribe", window, 0) for window in windows)
            return " ".join(transcript.text for transcript in await asyncio.gather(*calls))
        except MotetError as error:
            logger.warning("A piece of speech was not verified: %s", error)
            return None


@dataclass(slots=True)
class StreamQuality:
    """The checks of one stream. `buffered_seconds` says how much sound its listener still has.

    A client that asks for verification and does not play while it receives waits for each piece; any other waits only while
    it has sound.
    """

    plan: SpeechPlan
    directory: ModelDirectory
    buffered_seconds: Callable[[], float]
    found: list[PieceQuality] = field(default_factory=list)
    _reported: int = 0

    def checks(self, traits: SpeechTraits) -> PieceChecks:
        """The checks of one model that speaks in the stream."""
        verifier = self.plan.verifier
        waits = verifier is not None and not self.plan.played
        return PieceChecks(
            self.plan.quality,
            traits,
            buffered_seconds=None if waits else self.buffered_seconds,
            hearing=ReplicaHearing(self.directory, verifier) if verifier else None,
            beside=asyncio.to_thread if verifier else inline,
            found=self.found,
        )

    @property
    def is_clean(self) -> bool:
        """Whether no piece so far had a fault. A piece that had one may sound otherwise when the stream is made again."""
        return not any(quality.first_faults for quality in self.found)

    def new_events(self) -> Iterator[dict[str, object]]:
        """The events since the last call: of pieces that had a fault or were heard."""
        while self._reported < len(self.found):
            quality = self.found[self._reported]
            self._reported += 1
            if quality.first_faults or quality.heard is not None:
                yield quality_event(quality, self.plan.text.pieces[quality.index].text)

    def summary(self) -> dict[str, object]:
        """A field of the last event; nothing if no piece was checked."""
        return {"quality": QualitySummary.of(self.found).facts()} if self.found else {}


def quality_event(quality: PieceQuality, text: str) -> dict[str, object]:
    """What was found in a piece that says `text`."""
    event: dict[str, object] = {
        "type": "speech.audio.quality",
        "index": quality.index,
        "text": text,
        "faults": list(quality.faults),
        "first_faults": list(quality.first_faults),
        "attempts": quality.attempts,
    }
    if quality.heard is not None:
        event |= {"heard": quality.heard, "word_error_rate": round(quality.word_error_rate, 3)}
    return event
