"""POST /v1/audio/speech: text in, sound out, streamed as it is made."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field, StringConstraints, field_validator
from starlette.requests import HTTPConnection
from starlette.responses import Response

from deployments.audio.encode import FORMATS, AudioFormat
from deployments.engines.protocols import SpeechRequest, SpeechTraits, VoiceReference
from deployments.errors import fail
from deployments.settings import PieceSettings, StrictModel
from deployments.tasks.speech import nothing_to_say, predicted_seconds
from deployments.tasks.voice_choice import choose_voice, mark_speakers
from deployments.text.segmentation import cut_into_pieces
from deployments.text.sources import PieceSource, WholeText
from serve_app.gateway.bodies.input_thread import in_input_thread
from serve_app.gateway.bodies.json_bodies import read_json
from serve_app.gateway.errors import ModelName
from serve_app.gateway.routes.voices import cannot_clone, owner_of
from serve_app.gateway.service import service_of
from serve_app.gateway.settings import PRESETS, Preset
from serve_app.gateway.speech.plan import SpeechPlan
from serve_app.gateway.speech.resume import resume_point
from serve_app.gateway.speech.stream import SpeechStream
from serve_app.gateway.streaming import event_stream, stream_of
from serve_app.gateway.voice_store import is_id

router = APIRouter()

LONG_TEXT_CHARACTERS = 250
"""Above this, cutting the text can take longer than a few milliseconds, whatever it is, and is not done on the event loop."""


class SpeechManner(StrictModel):
    """Who speaks, how, and in which format, as OpenAI names the fields; `seed` and `pacing` are ours.

    The same seed gives the same samples, but for the rounding of a model that speaks for many at once. A model that finds
    nothing in `instructions` that it could follow speaks without them, and the answer's header `X-Motet-Ignored` says so. A
    stream that is `played` is made no further ahead of its listener than the look-ahead, and what comes late is concealed;
    the name of a preset means the same with that preset's buffer. A `fast` one is made as fast as it is read.
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


class SpeechBody(SpeechManner):
    """The request's fields: the text, and how its sound is sent."""

    input: str
    stream_format: Literal["audio", "sse"] = "audio"


SCHEMA = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": SpeechBody.model_json_schema()}}}
}


@router.post("/v1/audio/speech", openapi_extra=SCHEMA)
async def speech(request: Request) -> Response:
    """Speaks a text."""
    service = service_of(request)
    body = await read_json(SpeechBody, request)
    plan = await _plan(body, request)
    last_event_id = request.headers.get("last-event-id") if body.stream_format == "sse" else None
    resume = resume_point(last_event_id, plan)
    ticket = service.admit(plan.model, request.headers, predicted_seconds(plan.request))
    stream = SpeechStream(plan, service.directory, service.cache, ticket, service.recorder, resume)
    headers = _headers(plan)
    try:
        if body.stream_format == "sse":
            return await event_stream(stream.events(), headers)
        answer = await stream_of(stream.encoded(), FORMATS[plan.audio_format].media_type, headers)
    except BaseException:
        ticket.close()
        raise
    answer.headers["server-timing"] = stream.timeline.server_timing()
    late = {"x-motet-placement": stream.placement, "x-motet-finish-reason": stream.finish_reason}
    answer.headers.update({name: value for name, value in late.items() if value})
    return answer


def _headers(plan: SpeechPlan) -> dict[str, str]:
    headers = {
        "x-sample-rate": str(plan.traits.sample_rate),
        "x-motet-model": plan.model,
        "x-motet-voice": plan.request.voice,
    }
    return headers | ({"x-motet-ignored": ", ".join(plan.ignored)} if plan.ignored else {})


async def _plan(body: SpeechBody, request: Request) -> SpeechPlan:
    speaker = await speaker_of(body, request)
    pieces = await _pieces(body.input, speaker, request)
    return await plan_of(body, speaker, WholeText(pieces), request, pieces)


@dataclass(frozen=True, slots=True)
class Speaker:
    """A model and one of its voices, or a clip that it speaks like."""

    model: str
    traits: SpeechTraits
    voice: str
    reference: VoiceReference | None


async def speaker_of(manner: SpeechManner, connection: HTTPConnection) -> Speaker:
    """Who is asked for. Raises `MotetError` where there is no such model or voice."""
    service = service_of(connection)
    name = service.directory.resolve(manner.model, "speech")
    traits: SpeechTraits = await service.directory.traits(name)
    reference = await _reference(manner.voice, name, traits, connection)
    aliases = service.directory.models[name].voice_aliases
    return Speaker(name, traits, reference.id if reference else choose_voice(manner.voice, traits, aliases), reference)


async def plan_of(
    manner: SpeechManner,
    speaker: Speaker,
    text: PieceSource,
    connection: HTTPConnection,
    pieces: tuple[str, ...] = (),
) -> SpeechPlan:
    """Everything that decides a stream; `pieces` are those of a text that is whole."""
    service = service_of(connection)
    settings = service.settings.speech
    pacing = manner.pacing or settings.pacing_mode
    instructions = manner.instructions if manner.instructions and speaker.traits.follows(manner.instructions) else ""
    return SpeechPlan(
        model=speaker.model,
        request=SpeechRequest(
            pieces,
            speaker.voice,
            manner.speed,
            manner.seed,
            reference=speaker.reference,
            instructions=instructions,
        ),
        traits=speaker.traits,
        audio_format=manner.response_format or settings.default_format,
        pacing=settings.pacing if pacing == "fast" or pacing == "played" else PRESETS[pacing],
        text=text,
        played=pacing != "fast",
        max_request_seconds=settings.request_seconds_of_audio,
        fallback=None if pacing == "fast" else await service.fallback_for(speaker.model),
        ignored=("instructions",) if manner.instructions and not instructions else (),
    )


async def _reference(
    voice: str | None, model: str, traits: SpeechTraits, connection: HTTPConnection
) -> VoiceReference | None:
    """The clip of an uploaded voice; None for any other name."""
    if voice is None or not is_id(voice):
        return None
    if not traits.clones:
        raise await cannot_clone(model, connection)
    return await asyncio.to_thread(service_of(connection).voices.reference, owner_of(connection), voice)


async def _pieces(text: str, speaker: Speaker, request: Request) -> tuple[str, ...]:
    settings = service_of(request).settings.speech
    if len(text) > settings.max_input_characters:
        raise fail(
            "too_large",
            f"The input has {len(text):,} characters; this service takes {settings.max_input_characters:,}.",
            "Send it in parts.",
            param="input",
            code="string_above_max_length",
        )
    return await in_input_thread(len(text) > LONG_TEXT_CHARACTERS, _cut, text, settings.pieces, speaker)


def _cut(text: str, settings: PieceSettings, speaker: Speaker) -> tuple[str, ...]:
    pieces = cut_into_pieces(text, settings)
    if not pieces:
        raise nothing_to_say()
    return mark_speakers(pieces, speaker.traits, speaker.voice)
