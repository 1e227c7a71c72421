"""GET /v1/models: the models of this service and what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, Request

from deployments.engines.protocols import RecognitionTraits, SpeechTraits
from deployments.errors import MotetError, fail, quoted
from serve_app.gateway.service import Service, service_of

router = APIRouter()

CONVERSATION_MODEL = "gpt-realtime"
"""OpenAI's name of the model of `/v1/realtime` that converses."""


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """Every model and alias, whether or not it answers now. All are asked at the same time."""
    directory = service_of(request).directory
    names = [*directory.models, *directory.aliases]
    entries = await asyncio.gather(*(_entry(name, request) for name in names))
    return {"object": "list", "data": [*entries, *_conversation(service_of(request))]}


@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> dict[str, Any]:
    """One model or alias."""
    directory = service_of(request).directory
    for entry in _conversation(service_of(request)):
        if name == entry["id"]:
            return entry
    if name not in directory.models and name not in directory.aliases:
        known = ", ".join(directory.models)
        raise fail(
            "not_found",
            f"The model {quoted(name)} does not exist.",
            f"Models: {known}.",
            param="model",
            code="model_not_found",
        )
    return await _entry(name, request)


def _conversation(service: Service) -> Iterator[dict[str, Any]]:
    """The model that holds conversations, if there are models that transcribe and speak: what answers there."""
    directory, settings = service.directory, service.live.settings
    tasks = {entry.task for entry in directory.models.values()}
    if {"transcription", "speech"} <= tasks and CONVERSATION_MODEL not in (*directory.models, *directory.aliases):
        facts: dict[str, Any] = {"task": "conversation", "answers": "chat" if settings.chat else settings.without_chat}
        if settings.chat:
            facts["chat_model"] = settings.chat.model
        yield _listed(CONVERSATION_MODEL, facts)


def _listed(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "motet", "motet": facts}


async def _entry(name: str, request: Request) -> dict[str, Any]:
    directory = service_of(request).directory
    own = directory.aliases.get(name, name)
    entry = directory.models[own]
    facts: dict[str, Any] = {"task": entry.task, "placements": list(entry.kinds)}
    if own != name:
        facts["alias_of"] = own
    else:
        facts["aliases"] = list(entry.aliases)
    if traits := await _traits(own, request):
        facts |= _abilities(traits)
    return _listed(name, facts)


def _abilities(traits: Any) -> dict[str, Any]:
    """Whether a speech model knows when it speaks each word, and whether it reads IPA; the languages of a transcription
    model, an empty list for any language; the stems of a separation model."""
    if isinstance(traits, SpeechTraits):
        return {"word_timestamps": traits.word_times, "phonemes": traits.phonemes}
    if isinstance(traits, RecognitionTraits):
        return {"languages": list(traits.languages)}
    return {"stems": list(traits.stems)}


async def _traits(name: str, request: Request) -> Any:
    """The traits of a model; None if no replica can tell. None is started or waited for."""
    service = service_of(request)
    placed = service.directory.placements(name)
    await asyncio.gather(*(each.refresh() for each in placed))
    if not any(each.alive for each in placed):
        return None
    try:
        async with asyncio.timeout(service.settings.spillover.silent_s + service.settings.spillover.life_sign_s):
            return await service.directory.traits(name)
    except (MotetError, TimeoutError):
        return None
