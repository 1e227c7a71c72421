"""/v1/audio/voices: who can speak, and voices of the client's own."""

from __future__ import annotations

import asyncio
import unicodedata
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import AfterValidator, StringConstraints

from deployments.errors import MotetError
from deployments.settings import StrictModel
from serve_app.gateway.bodies.uploads import read_form
from serve_app.gateway.errors import validated
from serve_app.gateway.service import service_of
from serve_app.gateway.voice_store import StoredVoice

router = APIRouter()

LEAST_CONSENT_LETTERS = 5
LEAST_CONSENT_CHARACTERS = 10
MOST_NAMED = 5
"""Hidden characters, in one answer."""
_LINES = dict.fromkeys(map(ord, "\n\r\t"))
_JOINERS = "\u200c\u200d"
_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0"
"""Hangul's fillers, which Unicode counts as letters and nobody sees."""


def _one_line(text: str) -> str:
    """A name that can be read."""
    _refuse_hidden(text)
    if not _seen(text):
        raise ValueError("must have a character that is seen")
    return text


def _in_words(consent: str) -> str:
    """A consent that can be read. It may have several lines."""
    _refuse_hidden(consent.translate(_LINES))
    seen = _seen(consent)
    if len(seen) < LEAST_CONSENT_CHARACTERS or sum(c.isalpha() for c in seen) < LEAST_CONSENT_LETTERS:
        raise ValueError(f"must be in words, with {LEAST_CONSENT_CHARACTERS} characters or more")
    return consent


def _refuse_hidden(text: str) -> None:
    """Refuses what is not seen and changes how the rest is read; scripts that need joiners keep them."""
    hidden = sorted(unicodedata.name(c, f"U+{ord(c):04X}") for c in set(text) if _is_hidden(c))
    if hidden:
        more = f" and {len(hidden) - MOST_NAMED} more" if len(hidden) > MOST_NAMED else ""
        raise ValueError(f"must be without control characters; it has {', '.join(hidden[:MOST_NAMED])}{more}")


def _seen(text: str) -> list[str]:
    return [c for c in text if c not in _JOINERS + _BLANK_LETTERS]


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf") and character not in _JOINERS


class VoiceFields(StrictModel):
    """The form's fields, as OpenAI names them, without the clip.

    `consent` is what the speaker agreed to, in words; `text` is ours: what the clip says.
    """

    name: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100), AfterValidator(_one_line)
    ]
    consent: Annotated[str, StringConstraints(strip_whitespace=True, max_length=4096), AfterValidator(_in_words)]
    text: Annotated[str, StringConstraints(strip_whitespace=True, max_length=4096)] | None = None
    type: Literal["audio_sample"] = "audio_sample"


@router.post("/v1/audio/voices")
async def create_voice(request: Request) -> dict[str, Any]:
    """Keeps a clip to speak like. The same clip again is answered with the voice that is there."""
    form = await read_form(request, recording="audio_sample")
    try:
        fields = validated(VoiceFields, form.fields)
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
    """The voices of one speech model, or of all, and the client's own where they can be used."""
    directory = service_of(request).directory
    names = [directory.resolve(model, "speech")] if model else service_of(request).speech_models.names
    listed = []
    for name in names:
        try:
            listed += await _models_own(name, request)
        except MotetError:
            if model is not None:
                raise  # of all models, those that answer
    able = await service_of(request).speech_models.cloning()
    if model is None or set(names) & set(able):
        stored = await asyncio.to_thread(service_of(request).voices.listed, service_of(request).owner(request.headers))
        listed += [_uploaded(voice, able) for voice in stored]
    return {"object": "list", "data": listed}


@router.get("/v1/audio/voices/{voice_id}")
async def voice_of_id(request: Request, voice_id: str) -> dict[str, Any]:
    """One of the client's own voices."""
    voice = await asyncio.to_thread(
        service_of(request).voices.get, service_of(request).owner(request.headers), voice_id
    )
    return _uploaded(voice, await service_of(request).speech_models.cloning()) | {
        "consent": voice.consent,
        "text": voice.text,
    }


@router.delete("/v1/audio/voices/{voice_id}")
async def delete_voice(request: Request, voice_id: str) -> dict[str, Any]:
    """Forgets one of the client's own voices."""
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
    """As it is told, with the `models` that can speak like it."""
    return {
        "id": voice.id,
        "object": "audio.voice",
        "type": "audio_sample",
        "name": voice.name,
        "created_at": voice.created_at,
        "seconds": voice.seconds,
        "models": models,
    }
