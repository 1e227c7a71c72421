"""GET /v1/audio/voices: who can speak."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from deployments.engines.base import SpeechTraits
from serve_app.api_types import service_of

router = APIRouter()


@router.get("/v1/audio/voices")
async def voices(request: Request, model: str | None = None) -> dict[str, Any]:
    """The voices of one speech model, or of all."""
    directory = service_of(request).directory
    speakers = [name for name, config in directory.models.items() if config.task == "speech"]
    names = [directory.resolve(model, "speech")] if model else speakers
    listed = []
    for name in names:
        traits: SpeechTraits = await directory.traits(name)
        aliases = directory.models[name].voice_aliases
        for voice in traits.voices:
            listed.append(
                {
                    "id": voice.id,
                    "object": "voice",
                    "model": name,
                    "language": voice.language,
                    "description": voice.description,
                    "aliases": sorted(alias for alias, own in aliases.items() if own == voice.id),
                }
            )
    return {"object": "list", "data": listed}
