"""/v1/audio/voices: the voices of the models, and the client's uploaded voices."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal, NotRequired

from fastapi import APIRouter, Query, Request
from typing_extensions import TypedDict

from deployments.engines.protocols import Voice
from deployments.errors import MotetError
from deployments.settings import documented
from serve_app.gateway import voice_deletion
from serve_app.gateway.bodies.uploads import FormFields, read_form
from serve_app.gateway.description.operation import FormBody, Operation, json_answer
from serve_app.gateway.errors import validated
from serve_app.gateway.service import service_of
from serve_app.gateway.voice_fields import VoiceFields
from serve_app.gateway.voice_store import StoredVoice

router = APIRouter()


@documented
class ModelVoice(TypedDict):
    """A voice of a model."""

    id: str
    object: Literal["voice"]
    model: str
    language: str
    description: str
    aliases: list[str]
    """Other names of this voice."""
    note: NotRequired[str]
    """What a client should know about the aliases."""


@documented
class UploadedVoice(TypedDict):
    """One of the client's own voices."""

    id: str
    object: Literal["audio.voice"]
    type: Literal["audio_sample"]
    name: str
    created_at: int
    """Unix time in seconds."""
    seconds: float
    """The length of the clip."""
    models: list[str]
    """The models that can use it."""


class UploadedVoiceDetails(UploadedVoice):
    """One of the client's own voices, with the texts that came with it."""

    consent: str
    text: str | None


class VoiceList(TypedDict):
    """The voices of the models, then the client's own."""

    object: Literal["list"]
    data: list[ModelVoice | UploadedVoice]


class VoiceDeleted(TypedDict):
    """The voice is deleted."""

    id: str
    object: Literal["audio.voice.deleted"]
    deleted: Literal[True]


FORM = FormFields(recording="audio_sample", needed=())

CREATE = Operation(
    id="create_voice",
    tag="Voices",
    body=FormBody(VoiceFields, FORM),
    answers=(json_answer(UploadedVoice, "The voice."),),
    example={
        "name": "Ada",
        "consent": "I agree that my voice is used for our audiobook.",
        "text": "What the clip says.",
    },
)
LIST = Operation(id="list_voices", tag="Voices", answers=(json_answer(VoiceList, "The voices."),))
GET = Operation(id="get_voice", tag="Voices", answers=(json_answer(UploadedVoiceDetails, "The voice."),))
DELETE = Operation(id="delete_voice", tag="Voices", answers=(json_answer(VoiceDeleted, "The voice is deleted."),))


@router.post("/v1/audio/voices", openapi_extra=CREATE.extra, response_model=None)
async def create_voice(request: Request) -> UploadedVoice:
    """Stores a clip as a voice. Uploading the same clip again returns the voice that is stored already."""
    form = await read_form(request, recording=FORM.recording)
    try:
        fields = validated(VoiceFields, form.fields, strict=service_of(request).settings.strict)
        recording = await form.file.read()
    finally:
        await form.close()
    store = service_of(request).voices
    voice = await asyncio.to_thread(
        store.add,
        service_of(request).owner(request.headers),
        recording,
        fields.name,
        fields.consent,
        fields.text or None,
    )
    return _uploaded(voice, await service_of(request).speech_models.cloning())


@router.get("/v1/audio/voices", openapi_extra=LIST.extra, response_model=None)
async def voices(
    request: Request, model: Annotated[str | None, Query(description="The name or alias of one model.")] = None
) -> VoiceList:
    """The voices of one speech model or of all, and the client's uploaded voices if a listed model can use them.

    All of OpenAI's names (`alloy`, `ash`, ...) are aliases of one voice, unless the configuration says otherwise: see the
    `aliases` and the `note` of each voice.
    """
    directory = service_of(request).directory
    names = [directory.resolve(model, "speech")] if model else service_of(request).speech_models.names
    listed: list[ModelVoice | UploadedVoice] = []
    for name in names:
        try:
            listed += await _models_own(name, request)
        except MotetError:
            if model is not None:
                raise  # without a model, those that answer are listed
    able = await service_of(request).speech_models.cloning()
    if model is None or set(names) & set(able):
        stored = await asyncio.to_thread(service_of(request).voices.listed, service_of(request).owner(request.headers))
        listed += [_uploaded(voice, able) for voice in stored]
    return {"object": "list", "data": listed}


@router.get("/v1/audio/voices/{voice_id}", openapi_extra=GET.extra, response_model=None)
async def voice_of_id(request: Request, voice_id: str) -> UploadedVoiceDetails:
    """One of the client's uploaded voices."""
    voice = await asyncio.to_thread(
        service_of(request).voices.get, service_of(request).owner(request.headers), voice_id
    )
    found = _uploaded(voice, await service_of(request).speech_models.cloning())
    return {**found, "consent": voice.consent, "text": voice.text}


@router.delete("/v1/audio/voices/{voice_id}", openapi_extra=DELETE.extra, response_model=None)
async def delete_voice(request: Request, voice_id: str) -> VoiceDeleted:
    """Deletes one of the client's uploaded voices: its clip, cached speech, and what models computed from it. Speech that is
    being made ends with it. Files and results that were made with it stay until you delete them."""
    service = service_of(request)
    speaking = [placed for name in service.speech_models.names for placed in service.directory.placements(name)]
    await voice_deletion.delete_voice(service.voices, service.cache, speaking, service.owner(request.headers), voice_id)
    return {"id": voice_id, "object": "audio.voice.deleted", "deleted": True}


async def _models_own(name: str, request: Request) -> list[ModelVoice]:
    traits = await service_of(request).speech_models.traits_now(name)
    aliases = service_of(request).directory.models[name].voice_aliases
    return [
        _listed(name, voice, sorted(alias for alias, own in aliases.items() if own == voice.id))
        for voice in traits.voices
    ]


def _listed(model: str, voice: Voice, aliases: list[str]) -> ModelVoice:
    answer: ModelVoice = {
        "id": voice.id,
        "object": "voice",
        "model": model,
        "language": voice.language,
        "description": voice.description,
        "aliases": aliases,
    }
    if len(aliases) > 1:
        answer["note"] = f"{', '.join(aliases[:-1])} and {aliases[-1]} are all this one voice."
    return answer


def _uploaded(voice: StoredVoice, models: list[str]) -> UploadedVoice:
    """The JSON of an uploaded voice. `models` are those that can use it."""
    return {
        "id": voice.id,
        "object": "audio.voice",
        "type": "audio_sample",
        "name": voice.name,
        "created_at": voice.created_at,
        "seconds": voice.seconds,
        "models": models,
    }
