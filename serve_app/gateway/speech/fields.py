"""The fields that every speech request has, over HTTP and over a WebSocket."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from deployments.audio.formats import MAX_LUFS, MAX_SAMPLE_RATE, MIN_LUFS, MIN_SAMPLE_RATE, AudioFormat
from deployments.settings import InputType
from deployments.text.lexicon import LexiconEntries
from deployments.text.normalization.rules import RuleChanges
from serve_app.gateway.fields import ModelName, RequestFields
from serve_app.gateway.settings import Preset

MAX_LEXICON_WORDS = 64
"""Of a request. The lexicon of the configuration has no limit."""


class SpeechFields(RequestFields):
    """Who speaks, how, and in which format. OpenAI names the fields; `seed`, `pacing`, `sample_rate`, `loudness_lufs` and
    `word_timestamps` are ours.

    The same seed gives the same samples, except for the rounding of a model that speaks for many at once. A model that
    supports nothing in `instructions` ignores them, and the header `X-Motet-Ignored` says so. A stream that is `played` is
    made at most the look-ahead ahead of its listener, and late chunks are concealed; the name of a preset means the same
    with that preset's buffer. A `fast` stream is made as fast as it is read. `lexicon` has words and how to say them, beside
    those of the configuration. The input is a `text` or a document in `ssml`. With `verify`, a recognition model hears each
    piece, and one with other words is made again; a `fast` stream waits for that, a `played` one only while it has sound.
    `sample_rate` is in Hz; without it the sound has the model's, and `mulaw` and `alaw` have 8000. `loudness_lufs` is the
    integrated loudness to which speech is brought.
    """

    model: ModelName
    voice: Annotated[str, StringConstraints(max_length=1000)] | None = None
    response_format: AudioFormat | None = None
    sample_rate: Annotated[int, Field(ge=MIN_SAMPLE_RATE, le=MAX_SAMPLE_RATE)] | None = None
    loudness_lufs: Annotated[float, Field(ge=MIN_LUFS, le=MAX_LUFS)] | None = None
    speed: Annotated[float, Field(ge=0.25, le=4.0)] = 1.0
    instructions: Annotated[str, StringConstraints(max_length=4096)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    pacing: Literal["fast", "played"] | Preset | None = None
    input_type: InputType = "text"
    normalize: RuleChanges | None = None
    lexicon: LexiconEntries = Field(default_factory=dict, max_length=MAX_LEXICON_WORDS)
    word_timestamps: bool = False
    verify: bool = False

    @field_validator("voice", mode="before")
    @classmethod
    def _voice_by_id(cls, voice: object) -> object:
        """OpenAI writes a custom voice as `{"id": name}`."""
        name = voice["id"] if isinstance(voice, dict) and set(voice) == {"id"} else voice
        if not (name is None or isinstance(name, str)):
            raise ValueError('give the name of a voice, or {"id": name}')
        return name
