"""/v1/audio/voices: the voices of the models, and the client's uploaded voices."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from deployments.errors import MotetError
from serve_app.gateway.bodies.uploads import read_form
from serve_app.gateway.errors import validated
from serve_app.gateway.fields import form_schema
from serve_app.gateway.service import service_of
from serve_app.gateway.voice_fields import VoiceFields
from serve_app.gateway.voice_store import StoredVoice

router = APIRouter()


@router.post("/v1/audio/voices", openapi_extra=form_schema(VoiceFields, recording="audio_sample"))
async def create_voice(request: Request) -> dict[str, Any]:
    """Stores a clip as a voice. Uploading the same clip again returns the voice that is stored already."""
    form = await read_form(request, recording="audio_sample")
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


@router.get("/v1/audio/voices")
async def voices(request: Request, model: str | None = None) -> dict[str, Any]:
    """The voices of one speech model or of all, and the client's uploaded voices if a listed model can use them."""
    directory = service_of(request).directory
    names = [directory.resolve(model, "speech")] if model else service_of(request).speech_models.names
    listed = []
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


@router.get("/v1/audio/voices/{voice_id}")
async def voice_of_id(request: Request, voice_id: str) -> dict[str, Any]:
    """One of the client's uploaded voices."""
    voice = await asyncio.to_thread(
        service_of(request).voices.get, service_of(request).owner(request.headers), voice_id
    )
    return _uploaded(voice, await service_of(request).speech_models.cloning()) | {
        "consent": voice.consent,
        "text": voice.text,
    }


@router.delete("/v1/audio/voices/{voice_id}")
async def delete_voice(request: Request, voice_id: str) -> dict[str, Any]:
    """Deletes one of the client's uploaded voices."""
    await asyncio.to_thread(service_of(request).voices.delete, service_of(request).owner(request.headers), voice_id)
    return {"id": voice_id, "object": "audio.voice.deleted", "deleted": True}


async def _models_own(name: str, request: Request) -> list[dict[str, Any]]:
    traits = await service_of(request).speech_models.traits_now(name)
    aliases = service_of(request).directory.models[name].voice_aliases
    return [
        {
            "id": voice.id,
            "object": "voice",
            "model": name,
            "language": voice.language,
            "description": voice.description,
            "aliases": sorted(alias for alias, own in aliases.items() if own == voice.id),
        }
        for voice in traits.voices
    ]


def _uploaded(voice: StoredVoice, models: list[str]) -> dict[str, Any]:
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
