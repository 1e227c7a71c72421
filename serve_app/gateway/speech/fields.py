"""The fields that every speech request has, over HTTP and over a WebSocket."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from deployments.audio.formats import AudioFormat
from serve_app.gateway.fields import ModelName, RequestFields
from serve_app.gateway.settings import Preset


class SpeechFields(RequestFields):
    """Who speaks, how, and in which format. OpenAI names the fields; `seed` and `pacing` are ours.

    The same seed gives the same samples, except for the rounding of a model that speaks for many at once. A model that
    supports nothing in `instructions` ignores them, and the header `X-Motet-Ignored` says so. A stream that is `played` is
    made at most the look-ahead ahead of its listener, and late chunks are concealed; the name of a preset means the same
    with that preset's buffer. A `fast` stream is made as fast as it is read.
    """

    model: ModelName
    voice: Annotated[str, StringConstraints(max_length=1000)] | None = None
    response_format: AudioFormat | None = None
    speed: Annotated[float, Field(ge=0.25, le=4.0)] = 1.0
    instructions: Annotated[str, StringConstraints(max_length=4096)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    pacing: Literal["fast", "played"] | Preset | None = None

    @field_validator("voice", mode="before")
    @classmethod
    def _voice_by_id(cls, voice: object) -> object:
        """OpenAI writes a custom voice as `{"id": name}`."""
        name = voice["id"] if isinstance(voice, dict) and set(voice) == {"id"} else voice
        if not (name is None or isinstance(name, str)):
            raise ValueError('give the name of a voice, or {"id": name}')
        return name
