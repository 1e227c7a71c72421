"""What a live session is configured with: OpenAI's session object, and how `session.update` changes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints, ValidationError, ValidationInfo, field_validator, model_validator

from deployments.errors import clipped, fail
from deployments.text.languages import checked_code
from deployments.validation import in_words
from serve_app.gateway.errors import MAX_MISTAKES, own_fields
from serve_app.gateway.fields import ModelName, RequestFields
from serve_app.gateway.live.audio_input import InputEncoding
from serve_app.gateway.live.response_fields import AnyToolChoice, Modality, Tokens, Tool, one_modality
from serve_app.gateway.live.turn_settings import TurnSettings

SessionType = Literal["realtime", "transcription"]
LOGPROBS = "item.input_audio_transcription.logprobs"
TENTATIVE = "item.input_audio_transcription.tentative"
"""Our own value of `include`: events with text that may still change."""
Delay = Literal["minimal", "low", "medium", "high", "xhigh"]
DELAY_S: Mapping[Delay, float] = {"minimal": 0.0, "low": 0.8, "medium": 1.5, "high": 2.5, "xhigh": 4.0}
"""Seconds of new sound after which a turn is heard again, at least. Hearings that are further apart have more context when
they agree on a word. OpenAI does not say how long its delays are."""
MANUAL_MODELS = ("gpt-realtime-whisper", "gpt-live-transcribe")
"""OpenAI's models that detect no turns. Their clients rely on it: a session with such a name starts without."""
MAX_INSTRUCTIONS = 64 * 1024
MAX_TOOLS_CHARACTERS = 256 * 1024

Keyword = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
Instructions = Annotated[str, StringConstraints(max_length=MAX_INSTRUCTIONS)]


class SessionFields(RequestFields):
    """A part of the session object. Unknown fields are treated as in other requests, at every level."""

    @model_validator(mode="before")
    @classmethod
    def _known_only(cls, fields: object, info: ValidationInfo) -> object:
        strict = bool((info.context or {}).get("strict"))
        return own_fields(cls, fields, strict=strict) if isinstance(fields, Mapping) else fields


class EncodingFields(SessionFields):
    """How sound is encoded: 16-bit PCM (little-endian, mono) at `rate` Hz, or G.711 at 8 kHz."""

    type: InputEncoding = "audio/pcm"
    rate: Literal[16000, 24000] | None = None


class OutputEncoding(SessionFields):
    """How the voice of responses is encoded: 16-bit PCM at 24 kHz, or G.711 at 8 kHz."""

    type: InputEncoding = "audio/pcm"
    rate: Literal[24000] | None = None


class TranscriptionHints(SessionFields):
    """Which model hears the client's sound, and what it knows before."""

    model: ModelName | None = None
    language: Annotated[str, StringConstraints(max_length=256)] | None = None
    languages: Annotated[tuple[str, ...], Field(max_length=16)] = ()
    prompt: Annotated[str, StringConstraints(max_length=4096)] | None = None
    keywords: Annotated[tuple[Keyword, ...], Field(max_length=100)] = ()
    delay: Delay | None = None
    """How much new sound a hearing waits for: see `DELAY_S`. None: as with `minimal`."""

    @field_validator("language")
    @classmethod
    def _code(cls, language: str | None) -> str | None:
        return checked_code(language, "session.audio.input.transcription.language")

    @field_validator("languages", mode="after")
    @classmethod
    def _codes(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        codes = (checked_code(text, "session.audio.input.transcription.languages") for text in languages)
        return tuple(dict.fromkeys(code for code in codes if code))

    @property
    def spoken_language(self) -> str | None:
        """The code of the language, None to detect it. One of several `languages` is detected."""
        return self.language or (self.languages[0] if len(self.languages) == 1 else None)


class NoiseReduction(SessionFields):
    """Accepted, and not used: live sound is heard as it is."""

    type: Literal["near_field", "far_field"] | None = None
    strength: Annotated[float, Field(ge=0)] | None = None


class AudioInputFields(SessionFields):
    """What the client sends, and what happens to it."""

    format: EncodingFields = EncodingFields()
    transcription: TranscriptionHints | None = TranscriptionHints()
    """null: no text is sent."""
    turn_detection: TurnSettings | None = None
    """null: the client commits its turns."""
    noise_reduction: NoiseReduction | None = None


class VoiceId(SessionFields):
    """A voice by its identifier."""

    id: Annotated[str, StringConstraints(max_length=256)]


class AudioOutputFields(SessionFields):
    """The voice of responses."""

    format: OutputEncoding = OutputEncoding()
    voice: Annotated[str, StringConstraints(max_length=256)] | VoiceId = "alloy"
    speed: Annotated[float, Field(ge=0.25, le=4.0)] = 1.0


class AudioFields(SessionFields):
    """Both directions."""

    input: AudioInputFields = AudioInputFields()
    output: AudioOutputFields = AudioOutputFields()


class SessionSettings(SessionFields):
    """One session. A `session.update` makes another."""

    IGNORED: ClassVar[tuple[str, ...]] = ("prompt", "reasoning", "tracing", "truncation", "parallel_tool_calls")
    """OpenAI's fields that are accepted, and not used."""

    type: SessionType
    model: ModelName | None = None
    """The name that the client connected with."""
    instructions: Instructions = ""
    output_modalities: tuple[Modality, ...] = ("audio",)
    tools: Annotated[tuple[Tool, ...], Field(max_length=128)] = ()
    tool_choice: AnyToolChoice = "auto"
    max_output_tokens: Tokens = "inf"
    include: tuple[
        Literal["item.input_audio_transcription.logprobs", "item.input_audio_transcription.tentative"], ...
    ] = ()
    audio: AudioFields = AudioFields()

    @field_validator("include", "tools", mode="before")
    @classmethod
    def _none_is_empty(cls, values: object) -> object:
        return () if values is None else values

    @field_validator("output_modalities")
    @classmethod
    def _one(cls, modalities: tuple[Modality, ...]) -> tuple[Modality, ...]:
        return (one_modality(modalities),)

    @field_validator("tools")
    @classmethod
    def _bounded(cls, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
        if sum(len(json.dumps(tool.model_dump(mode="json"))) for tool in tools) > MAX_TOOLS_CHARACTERS:
            raise ValueError(f"the tools have over {MAX_TOOLS_CHARACTERS:,} characters")
        return tools

    def event(self, session_id: str) -> dict[str, Any]:
        """The session object of `session.created` and `session.updated`."""
        whole = self.model_dump(mode="json")
        if self.type == "transcription":
            audio = {"input": whole["audio"]["input"]}
            whole = {"type": self.type, "include": whole["include"], "audio": audio}
        whole["audio"]["input"]["noise_reduction"] = None  # off, whatever the client asked for
        for part in whole["audio"].values():
            part["format"] = _format_event(part["format"])
        return {"id": session_id, "object": "realtime.session", **whole}


def _format_event(form: Mapping[str, Any]) -> dict[str, Any]:
    return (
        {"type": form["type"], "rate": form["rate"] or 24_000}
        if form["type"] == "audio/pcm"
        else {"type": form["type"]}
    )


class SessionConfiguration:
    """The session object as the client has set it so far, and the settings that follow from it."""

    def __init__(
        self, session_type: SessionType, model: str | None, transcription_model: str | None, strict: bool
    ) -> None:
        """`model` and `transcription_model` are the names in the address."""
        self._chosen: dict[str, Any] = {"type": session_type}
        if model is not None:
            self._chosen["model"] = model
        if transcription_model is not None:
            self._chosen["audio"] = {"input": {"transcription": {"model": transcription_model}}}
        self._strict = strict
        self.settings = self._settings(self._chosen)

    @classmethod
    def granted(cls, session: Mapping[str, Any], strict: bool) -> SessionConfiguration:
        """The configuration of a client secret with these fields. Raises `MotetError` (invalid) that names the field."""
        whole = cls("transcription" if session.get("type") == "transcription" else "realtime", None, None, strict)
        whole.accept(whole.proposed(session))
        return whole

    def proposed(self, update: Mapping[str, Any]) -> tuple[dict[str, Any], SessionSettings]:
        """What an update would lead to. Raises `MotetError` (invalid) that names the field."""
        chosen = merged(self._chosen, update)
        return chosen, self._settings(chosen)

    def accept(self, proposed: tuple[dict[str, Any], SessionSettings]) -> None:
        """Makes a proposal the session's settings."""
        self._chosen, self.settings = proposed

    def _settings(self, chosen: Mapping[str, Any]) -> SessionSettings:
        whole = merged({"audio": {"input": _usual_input(chosen)}}, chosen)
        for name in SessionSettings.IGNORED:
            whole.pop(name, None)
        try:
            return SessionSettings.model_validate(whole, context={"strict": self._strict})
        except ValidationError as error:
            fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
            param = clipped(".".join(str(part) for part in ("session", *fault["loc"]) if part not in TAGS))
            lines = "; ".join(f"session.{line}" for line in in_words(error, SessionSettings, MAX_MISTAKES))
            raise fail("invalid", f"{lines}.", param=param, code=fault["type"]) from error


def _usual_input(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The default turn detection, which depends on the model."""
    transcription = _at(chosen, "audio", "input", "transcription")
    model = transcription.get("model") if isinstance(transcription, Mapping) else None
    manual = chosen.get("type") == "transcription" and model in MANUAL_MODELS
    return {"turn_detection": None if manual else {"type": "server_vad"}}


def _at(value: object, *path: str) -> object:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


TAGS = ("server_vad", "semantic_vad")
"""Parts of the place of a mistake that are no fields."""
REPLACED = ("format", "tools", "tool_choice", "include", "voice")
"""Fields of a session that an update replaces as a whole."""


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`new` over `old`: objects field by field. An object whose `type` changes is replaced."""
    result = dict(old)
    for name, value in new.items():
        before = result.get(name)
        if not isinstance(value, Mapping):
            result[name] = value
        elif not isinstance(before, Mapping) or name in REPLACED or _other_type(before, value):
            result[name] = merged({}, value)
        else:
            result[name] = merged(before, value)
    return result


def _other_type(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "type" in new and new["type"] != old.get("type")
