"""The fields that every speech request has, over HTTP and over a WebSocket."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator
from typing_extensions import TypedDict

from deployments.audio.formats import MAX_LUFS, MAX_SAMPLE_RATE, MIN_LUFS, MIN_SAMPLE_RATE, AudioFormat
from deployments.settings import InputType
from deployments.text.lexicon import LexiconEntries
from deployments.text.normalization.rules import RuleChanges
from serve_app.gateway.fields import ModelName, RequestFields
from serve_app.gateway.settings import Preset

MAX_LEXICON_WORDS = 64
"""Of a request. The lexicon of the configuration has no limit."""


class CustomVoice(TypedDict):
    """A voice by its id, as OpenAI writes a custom one."""

    id: str


VoiceName = Annotated[str, StringConstraints(max_length=1000)]


class SpeechFields(RequestFields):
    """Who speaks, how, and in which format. OpenAI names the fields; `seed`, `pacing`, `sample_rate`, `loudness_lufs`,
    `input_type`, `normalize`, `lexicon`, `word_timestamps` and `verify` are ours."""

    model: ModelName
    """The name or alias of a speech model: see `GET /v1/models`."""
    voice: VoiceName | None = None
    """The name or alias of a voice, the id of an uploaded one, or several with weights. All of OpenAI's names (`alloy`,
    `ash`, ...) are aliases of one voice, unless the configuration says otherwise: see `GET /v1/audio/voices`. Without one,
    the model's default voice speaks."""
    response_format: AudioFormat | None = None
    """The format of the sound; without one that of the configuration, which is mp3 unless set. `pcm`, `mulaw` and `alaw`
    have no header."""
    sample_rate: Annotated[int, Field(ge=MIN_SAMPLE_RATE, le=MAX_SAMPLE_RATE)] | None = None
    """Hz. Without it the sound has the model's rate, and `mulaw` and `alaw` have 8000."""
    loudness_lufs: Annotated[float, Field(ge=MIN_LUFS, le=MAX_LUFS)] | None = None
    """The integrated loudness (ITU-R BS.1770) to which speech is brought."""
    speed: Annotated[float, Field(ge=0.25, le=4.0)] = 1.0
    """Times the usual speed."""
    instructions: Annotated[str, StringConstraints(max_length=4096)] | None = None
    """How to speak. A model that supports nothing in it ignores it, and `X-Motet-Ignored` says so."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """The same seed gives the same samples, except for the rounding of a model that speaks for many at once."""
    pacing: Literal["fast", "played"] | Preset | None = None
    """`fast`: as fast as it is read. `played`: at most the look-ahead ahead of its listener, and late chunks are concealed.
    The name of a preset means `played` with that preset's buffer."""
    input_type: InputType = "text"
    """Whether the text is plain or a document in SSML."""
    normalize: RuleChanges | None = None
    """Rules of reading: all on or off, or some of them by name."""
    lexicon: LexiconEntries = Field(default_factory=dict, max_length=MAX_LEXICON_WORDS)
    """Words and how to say them, beside those of the configuration."""
    word_timestamps: bool = False
    """Whether events say when each word is spoken."""
    verify: bool = False
    """Whether a recognition model hears each piece, and one with other words is made again. A `fast` stream waits for that, a
    `played` one only while it has sound."""

    @field_validator("voice", mode="before", json_schema_input_type=VoiceName | CustomVoice | None)
    @classmethod
    def _voice_by_id(cls, voice: object) -> object:
        """OpenAI writes a custom voice as `{"id": name}`."""
        name = voice["id"] if isinstance(voice, dict) and set(voice) == {"id"} else voice
        if not (name is None or isinstance(name, str)):
            raise ValueError('give the name of a voice, or {"id": name}')
        return name
