"""The fields of a request for another voice, and what they mean together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from deployments.audio.formats import MAX_LUFS, MAX_SAMPLE_RATE, MIN_LUFS, MIN_SAMPLE_RATE, AudioFormat
from deployments.engines.protocols import RecognitionOptions, RecognitionTraits
from deployments.tasks.diarization import MOST_SPEAKERS
from deployments.text.languages import checked_code
from serve_app.gateway.fields import ModelName, RequestFields, object_in
from serve_app.gateway.speaker_fields import SpeakerName
from serve_app.gateway.speech.fields import SpeechFields, VoiceName


class RevoiceFields(RequestFields):
    """The form's fields, without its file. Each model that is not named is the first of the configuration for its task."""

    model: ModelName | None = None
    """The name or alias of the model that speaks."""
    voice: VoiceName | None = None
    """The voice that speaks, as in `POST /v1/audio/speech`."""
    transcription_model: ModelName | None = None
    """The model that hears the recording."""
    separation_model: ModelName | None = None
    """The model that finds what is behind the speech."""
    speaker_voices: Annotated[dict[SpeakerName, VoiceName], Field(max_length=MOST_SPEAKERS)] = Field(
        default_factory=dict
    )
    """Voices of some of the speakers, "A", "B" and so on in order of appearance, as JSON. All others have the `voice`."""
    language: Annotated[str, StringConstraints(max_length=256)] | None = None
    """The language of the recording: ISO 639-1, a tag such as de-CH, or a name. Without one it is detected."""
    translate: bool = False
    """Whether English is spoken, whatever is said."""
    background: Literal["keep", "drop"] = "drop"
    """Whether what is behind the speech stays."""
    max_speed: Annotated[float, Field(ge=1, le=2)] | None = None
    """A phrase is spoken at most this many times as fast as the voice speaks by itself."""
    instructions: Annotated[str, StringConstraints(max_length=4096)] | None = None
    """How to speak, for a model that supports it."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """The same seed gives the same samples."""
    loudness_lufs: Annotated[float, Field(ge=MIN_LUFS, le=MAX_LUFS)] | None = None
    """The integrated loudness (ITU-R BS.1770) to which speech is brought."""
    sample_rate: Annotated[int, Field(ge=MIN_SAMPLE_RATE, le=MAX_SAMPLE_RATE)] | None = None
    """Hz. Without it the sound has the rate of the model that speaks, or with its background of the one that separates."""
    response_format: AudioFormat = "wav"
    """The format of the sound."""
    stream_format: Literal["audio", "sse"] = "audio"
    """Whether the answer is the sound itself, or server-sent events with its phrases."""

    @field_validator("speaker_voices", mode="before")
    @classmethod
    def _from_json(cls, voices: object) -> object:
        """A form has the object as JSON, or as fields such as `speaker_voices[A]`."""
        return object_in(voices, 'an object such as {"A": "heart"}')

    @field_validator("language")
    @classmethod
    def _code(cls, language: str | None) -> str | None:
        return checked_code(language)

    @property
    def known_language(self) -> str | None:
        """The code of the language that will be spoken, if the request says it."""
        return "en" if self.translate else self.language

    def options(self, traits: RecognitionTraits) -> RecognitionOptions:
        """How a recogniser with these abilities hears the recording."""
        return RecognitionOptions(self.language, translate=self.translate, word_times=traits.word_times)

    def speech(self, model: str) -> SpeechFields:
        """How each phrase is spoken by a model."""
        return SpeechFields(
            model=model,
            voice=self.voice,
            instructions=self.instructions,
            seed=self.seed,
            loudness_lufs=self.loudness_lufs,
            pacing="fast",
        )
