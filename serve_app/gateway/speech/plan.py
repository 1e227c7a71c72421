"""What the gateway decided for one speech request: who speaks what, and how it is sent."""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass

from deployments.audio.encode import encoded_rate
from deployments.audio.formats import AudioFormat
from deployments.engines.protocols import SpeechRequest, SpeechTraits
from deployments.tasks.piece_preparation import language_of
from deployments.tasks.piece_quality import QualitySettings
from deployments.tasks.speech import CHARACTERS_PER_SECOND
from deployments.text.piece import Piece
from deployments.text.sources import PieceSource, for_one_voice
from serve_app.gateway.settings import PacingSettings
from serve_app.gateway.speech.models import AligningModel, FallbackVoice
from serve_app.gateway.speech.source_map import SourcePosition


@dataclass(frozen=True, slots=True)
class SpeechPlan:
    """One accepted speech request.

    `request` says who speaks and how; the pieces are in `text`. A `played` stream is made at most the look-ahead of `pacing`
    ahead of its listener, and its late chunks are concealed; any other is made as fast as it is read. `audio_rate` (Hz) and
    `loudness_lufs` are what the client or the configuration asks for. `ignored` names the fields of the client's request that
    the model does not support. With `word_timestamps`, events say when each word is spoken; the `aligning` model finds the
    words where the speech model does not know them.
    """

    model: str
    request: SpeechRequest
    traits: SpeechTraits
    audio_format: AudioFormat
    audio_rate: int | None
    loudness_lufs: float | None
    pacing: PacingSettings
    text: PieceSource
    played: bool
    max_request_seconds: float
    fallback: FallbackVoice | None
    quality: QualitySettings
    word_timestamps: bool = False
    aligning: AligningModel | None = None
    verifier: str | None = None
    """The recognition model that hears each piece."""
    ignored: tuple[str, ...] = ()
    unread_scripts: str = ""
    """Scripts in the text of which the voice reads nothing, such as "Cyrillic"."""

    @property
    def encoded_rate(self) -> int:
        """The sample rate of the encoded sound, in Hz."""
        return encoded_rate(self.audio_format, self.traits.sample_rate, self.audio_rate)

    def piece_at(self, position: SourcePosition) -> Piece:
        """The piece of the text at a position, as the model that speaks there gets it. A fallback voice reads only the words
        of a script."""
        piece = self.text.pieces[position.piece]
        if position.fallback_from is None or self.fallback is None:
            return piece
        phonemes = self.fallback.traits.phonemes
        return for_one_voice(piece, script=self.traits.most_speakers > 1, phonemes=phonemes)

    def speaker_at(self, position: SourcePosition) -> tuple[str, str]:
        """The model and the voice that speak at a position."""
        if position.fallback_from is None or self.fallback is None:
            return self.model, self.text.pieces[position.piece].voice or self.request.voice
        return self.fallback.model, self.fallback.voice

    def language_at(self, position: SourcePosition) -> str:
        """The BCP 47 tag of the voice at a position; "und" for a cloned one."""
        traits = self.fallback.traits if position.fallback_from is not None and self.fallback else self.traits
        return language_of(traits, self.speaker_at(position)[1])

    @property
    def predicted_seconds(self) -> float:
        """About how many seconds of speech the pieces so far bring."""
        characters = sum(len(piece.spoken) / piece.speed for piece in self.text.pieces)
        return characters / CHARACTERS_PER_SECOND / self.request.speed

    @property
    def key(self) -> str:
        """A name of the stream's bytes, the same for equal requests. It takes time in proportion to the text."""
        request = self.request
        manner = [request.voice, request.speed, request.seed, request.instructions]
        sound = [self.audio_format, self.audio_rate, self.loudness_lufs]
        facts = [self.model, *manner, *sound, *map(astuple, self.text.pieces)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
