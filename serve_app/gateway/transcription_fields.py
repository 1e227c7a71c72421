"""The fields of a transcription or a translation: what a request may say, and what its parts mean together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, field_validator, model_validator

from deployments.audio.channels import Channels
from deployments.engines.protocols import RecognitionOptions, RecognitionTraits
from deployments.engines.recognition import check_options
from deployments.errors import MotetError, fail, quoted
from deployments.settings import StrictModel, SubtitleSettings, VoiceActivitySettings
from deployments.text.languages import checked_code
from serve_app.gateway.fields import ModelName, RequestFields, object_in
from serve_app.gateway.request_context import current_request
from serve_app.gateway.speaker_fields import SpeakerFields
from serve_app.gateway.transcript_formats import (
    SPEAKER_FORMATS,
    TIMED_FORMATS,
    TranscriptContents,
    TranscriptFormat,
)

REPEATED = ("timestamp_granularities", "include", "keywords", "hotwords", "languages", "known_speaker_names")
"""The fields of a form that are lists. Their names may end in `[]`."""
DIARIZING_MODEL = "gpt-4o-transcribe-diarize"
"""OpenAI's name of a model that tells speakers apart. An alias of this name means `diarize`."""
MOST_KEYWORDS = 100

Keyword = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


class VadChunking(StrictModel):
    """OpenAI's settings of voice activity. Without a value the service's own is used."""

    type: Literal["server_vad"] = "server_vad"
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The probability of speech at which speech begins."""
    prefix_padding_ms: Annotated[float, Field(ge=0, le=2000)] | None = None
    """Sound around speech that is kept."""
    silence_duration_ms: Annotated[float, Field(ge=0, le=10_000)] | None = None
    """A silence of this length divides speech."""


def _strategy(value: object) -> str:
    return "auto" if isinstance(value, str) else "server_vad"


ChunkingStrategy = Annotated[
    Annotated[Literal["auto"], Tag("auto")] | Annotated[VadChunking, Tag("server_vad")], Discriminator(_strategy)
]


class RecognitionFields(RequestFields):
    """The fields of a form, without its files. OpenAI documents these for translations and transcriptions."""

    foreign: ClassVar[Mapping[str, str]] = {
        "initial_prompt": "prompt",
        "max_line_width": "max_line_characters",
        "max_line_count": "max_lines",
    }

    model: ModelName
    """The name or alias of a model that transcribes: see `GET /v1/models`."""
    prompt: Annotated[str, StringConstraints(max_length=4096)] | None = None
    """A text that the recording might follow: its style and its words are expected."""
    response_format: TranscriptFormat = "json"
    """The format of the answer."""
    temperature: Annotated[float, Field(ge=0, le=1)] = 0.0
    """0 takes the likeliest words; above it, words are drawn at random."""
    stream: bool = False
    """Whether the answer is server-sent events, the first of them while the recording arrives."""
    channels: Channels = "mix"
    """`mix`: all channels as one. `separate`: each channel is a speaker."""
    vad_filter: bool = True
    """Whether only speech is heard. Without it, silences are heard as well."""
    max_line_characters: Annotated[int, Field(ge=10, le=200)] | None = None
    """The longest line of a subtitle."""
    max_lines: Annotated[int, Field(ge=1, le=4)] | None = None
    """The most lines of a subtitle."""
    max_characters_per_second: Annotated[float, Field(ge=5, le=60)] | None = None
    """How fast a subtitle may be to read."""

    def check(self, traits: RecognitionTraits) -> None:
        """Raises `MotetError` (unsupported) for what the model cannot do. Hints that it does not follow are noted as
        ignored."""
        check_options(self.options(traits), traits, f"The model {quoted(self.model)}")
        self._note_hints({"prompt": self.prompt}, traits)

    def _note_hints(self, hints: Mapping[str, object], traits: RecognitionTraits) -> None:
        if not traits.prompts:
            current_request().ignore(name for name, value in hints.items() if value)

    def options(self, traits: RecognitionTraits) -> RecognitionOptions:
        """The options for an engine with these abilities."""
        return RecognitionOptions(
            prompt=self.prompt or None,
            temperature=self.temperature,
            translate=True,
            word_times=traits.word_times and self.response_format in TIMED_FORMATS,
        )

    def voice_activity(self, usual: VoiceActivitySettings) -> VoiceActivitySettings:
        """What counts as speech, where the request says so."""
        return usual if self.vad_filter else usual.model_copy(update={"enabled": False})

    def contents(self, subtitles: SubtitleSettings) -> TranscriptContents:
        """What the answer contains."""
        limits = {
            "line_characters": self.max_line_characters,
            "lines": self.max_lines,
            "characters_per_second": self.max_characters_per_second,
        }
        own = {name: value for name, value in limits.items() if value is not None}
        return TranscriptContents(
            self.response_format,
            "translate",
            self.temperature,
            subtitles=subtitles.model_copy(update=own) if own else subtitles,
        )


class TranslationFields(RecognitionFields):
    """The fields of a translation."""

    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    """The format of the answer."""


class TranscriptionFields(RecognitionFields, SpeakerFields):
    """The fields of a transcription. See docs/transcription.md for what each does."""

    foreign: ClassVar[Mapping[str, str]] = {
        **RecognitionFields.foreign,
        **SpeakerFields.foreign,
        "lang_code": "language",
        "language_code": "language",
        "hotwords": "keywords",
    }

    language: Annotated[str, StringConstraints(max_length=256)] | None = None
    """The language of the recording: ISO 639-1, a tag such as de-CH, or a name. Without one it is detected."""
    languages: Annotated[tuple[str, ...], Field(max_length=16)] = ()
    """Languages that may be spoken."""
    keywords: Annotated[tuple[Keyword, ...], Field(max_length=MOST_KEYWORDS)] = ()
    """Words and names that may be said."""
    timestamp_granularities: tuple[Literal["word", "segment"], ...] = ()
    """Which times `verbose_json` has. Without a value it has segments."""
    word_timestamps: bool = False
    """The same as `word` in `timestamp_granularities`, as other servers name it."""
    include: tuple[Literal["logprobs"], ...] = ()
    """`logprobs`: the log probability of each token, in the format `json`."""
    chunking_strategy: ChunkingStrategy | None = None
    """How speech is found: `auto`, or an object as JSON."""
    diarize: bool = False
    """Whether the answer says who speaks."""

    @field_validator("keywords", mode="before")
    @classmethod
    def _separate(cls, words: object) -> object:
        """`hotwords` of other servers is one text with commas."""
        if not isinstance(words, list):
            return words
        return [part for text in words for part in str(text).split(",", MOST_KEYWORDS + 1) if part.strip()]

    @field_validator("chunking_strategy", mode="before")
    @classmethod
    def _from_json(cls, strategy: object) -> object:
        """A form has the object as JSON, or as fields such as `chunking_strategy[type]`."""
        return object_in(strategy, "auto, or an object with the type server_vad")

    @field_validator("language")
    @classmethod
    def _code(cls, language: str | None) -> str | None:
        return checked_code(language)

    @field_validator("languages")
    @classmethod
    def _codes(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(code for text in languages if (code := checked_code(text, "languages"))))

    @model_validator(mode="after")
    def _fit_together(self) -> TranscriptionFields:
        if "word" in self.timestamp_granularities and self.response_format != "verbose_json":
            raise _needs_format("timestamp_granularities[]=word", "verbose_json", "timestamp_granularities")
        if self.include and self.response_format != "json":
            raise _needs_format("include[]=logprobs", "json", "include")
        if self.channels == "separate" and (self.diarize or self.speaker_settings):
            cause = "With channels=separate each channel is a speaker."
            raise fail("invalid", cause, "Leave out the other fields about speakers, or channels.", param="channels")
        for name in self._speakers_unseen():
            # OpenAI's diarizing model may be asked for plain text.
            if name in ("diarize", "known_speaker_names") and self.model != DIARIZING_MODEL:
                cause = f"{name} needs a response_format that says who speaks: {', '.join(TIMED_FORMATS)}."
                raise fail("invalid", cause, "Set one of them, or leave this out.", param=name)
        return self

    def _speakers_unseen(self) -> list[str]:
        """The request's fields about speakers, if its format has no place for speakers."""
        if self.response_format in TIMED_FORMATS:
            return []
        return [name for name in ("diarize", *SpeakerFields.model_fields) if getattr(self, name)]

    @property
    def spoken_language(self) -> str | None:
        """The code of the language, None to detect it. One of several `languages` is detected."""
        return self.language or (self.languages[0] if len(self.languages) == 1 else None)

    @property
    def word_times(self) -> bool:
        """Whether the answer has the times of words."""
        return "word" in self.timestamp_granularities or self.word_timestamps

    @property
    def diarizes(self) -> bool:
        """Whether the answer says who speaks, which has to be found in the sound. Text without times has no speakers."""
        if self.channels == "separate":
            return False
        if self.response_format in SPEAKER_FORMATS:
            return True
        wanted = self.diarize or self.speaker_settings or self.model == DIARIZING_MODEL
        return wanted and self.response_format in TIMED_FORMATS

    def check(self, traits: RecognitionTraits) -> None:
        """As for translations."""
        super().check(traits)
        if self.include and not traits.token_probabilities:
            raise _cannot(self.model, "give log probabilities", "include")
        if "word" in self.timestamp_granularities and not traits.word_times:
            raise _cannot(self.model, "give the times of words", "timestamp_granularities")
        self._note_hints({"keywords": self.keywords}, traits)
        if len(self.languages) > 1 and self.language is None:
            current_request().ignore(["languages"])
        if self.word_timestamps and self.response_format != "verbose_json":
            current_request().ignore(["word_timestamps"])
        current_request().ignore(self._speakers_unseen())

    def options(self, traits: RecognitionTraits) -> RecognitionOptions:
        """As for translations."""
        return replace(
            super().options(traits),
            language=self.spoken_language,
            keywords=self.keywords,
            translate=False,
            token_probabilities=bool(self.include),
        )

    def voice_activity(self, usual: VoiceActivitySettings) -> VoiceActivitySettings:
        """As for translations."""
        settings = super().voice_activity(usual)
        if not isinstance(strategy := self.chunking_strategy, VadChunking):
            return settings
        values = {
            "threshold": strategy.threshold,
            "pad_ms": strategy.prefix_padding_ms,
            "min_silence_ms": strategy.silence_duration_ms,
        }
        return settings.model_copy(update={name: value for name, value in values.items() if value is not None})

    def contents(self, subtitles: SubtitleSettings) -> TranscriptContents:
        """As for translations."""
        return replace(
            super().contents(subtitles),
            task="transcribe",
            segments=not self.timestamp_granularities or "segment" in self.timestamp_granularities,
            words=self.word_times,
            log_probabilities=bool(self.include),
        )


def _needs_format(what: str, form: str, param: str) -> MotetError:
    return fail("invalid", f"{what} needs response_format={form}.", "Set it, or leave this out.", param=param)


def _cannot(model: str, what: str, param: str) -> MotetError:
    return fail("unsupported", f"The model {quoted(model)} cannot {what}.", "Leave this out.", param=param)
