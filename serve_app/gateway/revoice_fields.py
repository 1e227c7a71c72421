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
from serve_app.gateway.speech.fields import SpeechFields

VoiceName = Annotated[str, StringConstraints(max_length=1000)]


class RevoiceFields(RequestFields):
    """The form's fields, without its file. Each model that is not named is the first of the configuration for its task.

    `model` and `voice` say who speaks; `seed`, `instructions`, `loudness_lufs` and `sample_rate` are those of speech.
    `speaker_voices` are voices of some of the speakers, "A", "B" and so on in order of appearance; all others have the
    `voice`. `translate` speaks English, whatever is said. `background` says whether what is behind the speech stays. A phrase
    is spoken at most `max_speed` times as fast as the voice speaks by itself.
    """

    model: ModelName | None = None
    voice: VoiceName | None = None
    transcription_model: ModelName | None = None
    separation_model: ModelName | None = None
    speaker_voices: Annotated[dict[SpeakerName, VoiceName], Field(max_length=MOST_SPEAKERS)] = Field(
        default_factory=dict
    )
    language: Annotated[str, StringConstraints(max_length=256)] | None = None
    translate: bool = False
    background: Literal["keep", "drop"] = "drop"
    max_speed: Annotated[float, Field(ge=1, le=2)] | None = None
    instructions: Annotated[str, StringConstraints(max_length=4096)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    loudness_lufs: Annotated[float, Field(ge=MIN_LUFS, le=MAX_LUFS)] | None = None
    sample_rate: Annotated[int, Field(ge=MIN_SAMPLE_RATE, le=MAX_SAMPLE_RATE)] | None = None
    response_format: AudioFormat = "wav"
    stream_format: Literal["audio", "sse"] = "audio"

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
