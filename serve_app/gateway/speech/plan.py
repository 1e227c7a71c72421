"""What the gateway decided for one speech request: who speaks what, and how it is sent."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from deployments.audio.formats import AudioFormat
from deployments.engines.protocols import SpeechRequest, SpeechTraits
from deployments.text.sources import PieceSource
from deployments.text.speakers import without_marks
from serve_app.gateway.settings import PacingSettings
from serve_app.gateway.speech.models import FallbackVoice
from serve_app.gateway.speech.source_map import SourcePosition


@dataclass(frozen=True, slots=True)
class SpeechPlan:
    """One accepted speech request.

    `request` says who speaks and how. Its pieces are the text if that is whole; `text` has the pieces in both cases. A
    `played` stream is made at most the look-ahead of `pacing` ahead of its listener, and its late chunks are concealed; any
    other is made as fast as it is read. `ignored` names the fields of the client's request that the model does not support.
    """

    model: str
    request: SpeechRequest
    traits: SpeechTraits
    audio_format: AudioFormat
    pacing: PacingSettings
    text: PieceSource
    played: bool
    max_request_seconds: float
    fallback: FallbackVoice | None
    ignored: tuple[str, ...] = ()

    def piece_at(self, position: SourcePosition) -> str:
        """The piece of the text at a position, as the model that speaks there gets it. A fallback voice reads only the words
        of a script."""
        piece = self.text.pieces[position.piece]
        whole = position.fallback_from is None or self.traits.most_speakers == 1
        return piece if whole else without_marks((piece,))[0]

    def speaker_at(self, position: SourcePosition) -> tuple[str, str]:
        """The model and the voice that speak at a position."""
        if position.fallback_from is None or self.fallback is None:
            return self.model, self.request.voice
        return self.fallback.model, self.fallback.voice

    @property
    def key(self) -> str:
        """A name of the stream's bytes, the same for equal requests. It takes time in proportion to the text."""
        request = self.request
        manner = [request.voice, request.speed, request.seed, request.instructions]
        facts = [self.model, *manner, self.audio_format, *request.pieces]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
