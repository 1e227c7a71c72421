"""POST /v1/audio/speech: text in, sound out, streamed as it is made."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field, StringConstraints, field_validator
from starlette.responses import Response

from deployments.audio.encode import FORMATS, AudioFormat, open_encoder
from deployments.engines.base import AudioChunk, Samples, SpeechTraits
from deployments.errors import fail
from deployments.settings import StrictModel
from deployments.speaking import SpeechTask, choose_voice, speak
from deployments.text.segmentation import cut_into_pieces
from serve_app.api_types import service_of
from serve_app.http_errors import validated
from serve_app.streaming import event, event_stream, stream_of

router = APIRouter()

LONG_TEXT_CHARACTERS = 10_000
"""Above this, cutting the text takes long enough to be done beside the event loop."""

FIRST_SLICE_SECONDS = 0.3
SLICE_SECONDS = 2.0
"""How much sound is encoded at once. hibari begins with a quarter of a second of silence, which alone helps nobody."""


class SpeechBody(StrictModel):
    """The request's fields, as OpenAI names them. `seed` is ours: the same seed gives the same samples."""

    model: str
    input: str
    voice: str | None = None
    response_format: AudioFormat | None = None
    speed: Annotated[float, Field(ge=0.25, le=4.0)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"
    instructions: Annotated[str, StringConstraints(max_length=4096)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @field_validator("voice", mode="before")
    @classmethod
    def _voice_by_id(cls, voice: object) -> object:
        """OpenAI writes a custom voice as `{"id": name}`."""
        name = voice["id"] if isinstance(voice, dict) and set(voice) == {"id"} else voice
        if not (name is None or isinstance(name, str)):
            raise ValueError('give the name of a voice, or {"id": name}')
        return name


SCHEMA = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": SpeechBody.model_json_schema()}}}
}


@router.post("/v1/audio/speech", openapi_extra=SCHEMA)
async def speech(request: Request) -> Response:
    """Speaks a text."""
    service = service_of(request)
    body = validated(SpeechBody, await request.body())
    name = service.directory.resolve(body.model, "speech")
    traits: SpeechTraits = await service.directory.traits(name)
    voice = choose_voice(body.voice, traits, service.directory.models[name].voice_aliases)
    task = SpeechTask(await _pieces(body.input, request), voice, body.speed, body.seed)
    call = partial(service.directory.stream, name, "speak")
    chunks = speak(task, traits, call, service.config.speech.request_seconds_of_audio)
    audio_format = body.response_format or service.config.speech.default_format
    headers = {"x-sample-rate": str(traits.sample_rate), "x-motet-model": name, "x-motet-voice": voice}
    if body.instructions:
        headers["x-motet-ignored"] = "instructions"
    if body.stream_format == "sse":
        return await event_stream(_events(chunks, audio_format, traits, task), headers)
    return await stream_of(_encoded(chunks, audio_format, traits), FORMATS[audio_format].media_type, headers)


async def _pieces(text: str, request: Request) -> tuple[str, ...]:
    settings = service_of(request).config.speech
    if len(text) > settings.max_input_characters:
        raise fail(
            "too_large",
            f"The input has {len(text):,} characters; this service takes {settings.max_input_characters:,}.",
            "Send it in parts.",
            param="input",
            code="string_above_max_length",
        )
    if len(text) > LONG_TEXT_CHARACTERS:
        pieces = await asyncio.to_thread(cut_into_pieces, text, settings.pieces)
    else:
        pieces = cut_into_pieces(text, settings.pieces)
    if not pieces:
        raise fail("invalid", "The input has nothing to say.", "Send some words.", param="input", code="empty_input")
    return pieces


async def _encoded(
    chunks: AsyncGenerator[AudioChunk], audio_format: AudioFormat, traits: SpeechTraits
) -> AsyncGenerator[bytes]:
    """One muxer for the whole stream. Encoding that takes time happens beside the event loop."""
    encoder = open_encoder(audio_format, traits.sample_rate)
    instant = FORMATS[audio_format].instant
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                for samples in slices(chunk.samples, traits.sample_rate, first=chunk.index == 0):
                    if data := encoder.encode(samples) if instant else await asyncio.to_thread(encoder.encode, samples):
                        yield data
        if data := await asyncio.to_thread(encoder.finish):
            yield data
    finally:
        encoder.close()


def slices(samples: Samples, sample_rate: int, *, first: bool) -> Iterator[Samples]:
    """A chunk in parts to encode, so that the beginning of a stream leaves before the rest of its chunk is encoded."""
    start = 0
    if first:
        start = int(FIRST_SLICE_SECONDS * sample_rate)
        yield samples[:start]
    step = int(SLICE_SECONDS * sample_rate)
    while start < len(samples):
        yield samples[start : start + step]
        start += step


async def _events(
    chunks: AsyncGenerator[AudioChunk], audio_format: AudioFormat, traits: SpeechTraits, task: SpeechTask
) -> AsyncGenerator[bytes]:
    seconds = 0.0

    async def counted() -> AsyncGenerator[AudioChunk]:
        nonlocal seconds
        async with aclosing(chunks):
            async for chunk in chunks:
                seconds += chunk.seconds
                yield chunk

    async with aclosing(_encoded(counted(), audio_format, traits)) as encoded:
        async for data in encoded:
            yield event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
    yield event({"type": "speech.audio.done", "usage": _usage(task, seconds)})


def _usage(task: SpeechTask, seconds: float) -> dict[str, object]:
    """OpenAI's shape. Models here have no tokens: a character counts as one in, a tenth of a second as one out."""
    characters, tenths = task.characters, round(seconds * 10)
    return {
        "input_tokens": characters,
        "output_tokens": tenths,
        "total_tokens": characters + tenths,
        "audio_seconds": round(seconds, 3),
    }
