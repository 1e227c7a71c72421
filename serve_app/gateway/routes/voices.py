"""/v1/audio/voices: the voices of the models, and the client's uploaded voices."""

from __future__ import annotations

import asyncio
import unicodedata
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import AfterValidator, StringConstraints

from deployments.errors import MotetError
from serve_app.gateway.bodies.uploads import read_form
from serve_app.gateway.errors import validated
from serve_app.gateway.fields import RequestFields, form_schema
from serve_app.gateway.service import service_of
from serve_app.gateway.voice_store import StoredVoice

router = APIRouter()

MIN_CONSENT_LETTERS = 5
MIN_CONSENT_CHARACTERS = 10
MAX_NAMED = 5
"""The most hidden characters that an error lists."""
_LINES = dict.fromkeys(map(ord, "\n\r\t"))
_JOINERS = "\u200c\u200d"
_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0"
"""Hangul fillers: invisible characters that Unicode counts as letters."""


def _one_line(text: str) -> str:
    _refuse_hidden(text)
    if not _visible(text):
        raise ValueError("must have a visible character")
    return text


def _in_words(consent: str) -> str:
    _refuse_hidden(consent.translate(_LINES))
    visible = _visible(consent)
    if len(visible) < MIN_CONSENT_CHARACTERS or sum(c.isalpha() for c in visible) < MIN_CONSENT_LETTERS:
        raise ValueError(f"must be in words, with {MIN_CONSENT_CHARACTERS} characters or more")
    return consent


def _refuse_hidden(text: str) -> None:
    """Refuses invisible characters that change how the rest is read, except joiners, which some scripts need."""
    hidden = sorted(unicodedata.name(c, f"U+{ord(c):04X}") for c in set(text) if _is_hidden(c))
    if hidden:
        more = f" and {len(hidden) - MAX_NAMED} more" if len(hidden) > MAX_NAMED else ""
        raise ValueError(f"must be without control characters; it has {', '.join(hidden[:MAX_NAMED])}{more}")


def _visible(text: str) -> list[str]:
    return [c for c in text if c not in _JOINERS + _BLANK_LETTERS]


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf") and character not in _JOINERS


class VoiceFields(RequestFields):
    """The form's fields in OpenAI's names, without the clip.

    `consent` is the text that the speaker agreed to. `text` is Motet's own field: what the clip says.
    """

    name: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100), AfterValidator(_one_line)
    ]
    consent: Annotated[str, StringConstraints(strip_whitespace=True, max_length=4096), AfterValidator(_in_words)]
    text: Annotated[str, StringConstraints(strip_whitespace=True, max_length=4096)] | None = None
    type: Literal["audio_sample"] = "audio_sample"


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
