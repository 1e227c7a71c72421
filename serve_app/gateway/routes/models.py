"""GET /v1/models: the models of this service and what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Literal, NotRequired

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from deployments.engines.protocols import RecognitionTraits, SpeechTraits
from deployments.errors import MotetError, fail, quoted
from deployments.settings import documented
from serve_app.gateway.description.operation import Operation, json_answer
from serve_app.gateway.request_context import current_key
from serve_app.gateway.service import Service, service_of
from serve_app.loading.records import LoadState

router = APIRouter()

CONVERSATION_MODEL = "gpt-realtime"
"""OpenAI's name of the model of `/v1/realtime` that converses."""


@documented
class ModelFacts(TypedDict):
    """What a model does. Abilities are missing while no replica answers."""

    task: str
    placements: NotRequired[list[str]]
    """Its classes of hardware, in order of preference."""
    alias_of: NotRequired[str]
    """The model that an alias names."""
    aliases: NotRequired[list[str]]
    """Other names of the model."""
    state: NotRequired[LoadState]
    """Of a model that was loaded while the service runs. Requests may use a `ready` one."""
    word_timestamps: NotRequired[bool]
    """Whether the model knows when each word is spoken."""
    clones: NotRequired[bool]
    """Whether a speech model speaks with uploaded voices."""
    phonemes: NotRequired[bool]
    """Whether a speech model reads IPA."""
    languages: NotRequired[list[str]]
    """The languages of a transcription model; empty for any language."""
    stems: NotRequired[list[str]]
    """The stems of a separation model."""
    answers: NotRequired[str]
    """What answers in conversations."""
    chat_model: NotRequired[str]


class ModelOrAlias(TypedDict):
    """A model or an alias, in the shape of OpenAI's models. `motet` has Motet's own facts."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    motet: ModelFacts


class ModelList(TypedDict):
    """Every model and alias."""

    object: Literal["list"]
    data: list[ModelOrAlias]


LIST = Operation(id="list_models", tag="Models", answers=(json_answer(ModelList, "The models."),))
GET = Operation(id="get_model", tag="Models", answers=(json_answer(ModelOrAlias, "The model."),))


@router.get("/v1/models", openapi_extra=LIST.extra, response_model=None)
async def models(request: Request) -> ModelList:
    """Every model and alias that the key may use, whether or not it answers now. All are asked at the same time."""
    directory, key = service_of(request).directory, current_key()
    offered = (*directory.offered, *directory.aliases)
    names = [name for name in offered if key.may_use(directory.aliases.get(name, name))]
    entries = await asyncio.gather(*(_entry(name, request) for name in names))
    service = service_of(request)
    return {"object": "list", "data": [*entries, *_coming_and_going(service), *_conversation(service)]}


@router.get("/v1/models/{name:path}", openapi_extra=GET.extra, response_model=None)
async def model(name: str, request: Request) -> ModelOrAlias:
    """One model or alias that the key may use."""
    directory, key = service_of(request).directory, current_key()
    for entry in (*_coming_and_going(service_of(request)), *_conversation(service_of(request))):
        if name == entry["id"]:
            return entry
    own = directory.aliases.get(name, name)
    if own not in directory.offered or not key.may_use(own):
        known = ", ".join(filter(key.may_use, directory.offered))
        raise fail(
            "not_found",
            f"The model {quoted(name)} does not exist.",
            f"Models: {known}.",
            param="model",
            code="model_not_found",
        )
    return await _entry(name, request)


def _conversation(service: Service) -> Iterator[ModelOrAlias]:
    """The model that holds conversations, if there are models that transcribe and speak and that the key may use: what
    answers there."""
    directory, settings, key = service.directory, service.live.settings, current_key()
    tasks = {entry.task for name, entry in directory.offered.items() if key.may_use(name)}
    if {"transcription", "speech"} <= tasks and CONVERSATION_MODEL not in (*directory.models, *directory.aliases):
        facts: ModelFacts = {"task": "conversation", "answers": "chat" if settings.chat else settings.without_chat}
        if settings.chat:
            facts["chat_model"] = settings.chat.model
        yield _listed(CONVERSATION_MODEL, facts)


def _coming_and_going(service: Service) -> Iterator[ModelOrAlias]:
    """Models that are being loaded or unloaded, or could not be loaded."""
    for name, loaded in service.loaded.models.items():
        if name not in service.directory.offered and current_key().may_use(name):
            yield _listed(name, {"task": loaded.model.task, "state": loaded.state})


def _listed(name: str, facts: ModelFacts) -> ModelOrAlias:
    return {"id": name, "object": "model", "created": 0, "owned_by": "motet", "motet": facts}


async def _entry(name: str, request: Request) -> ModelOrAlias:
    directory = service_of(request).directory
    own = directory.aliases.get(name, name)
    entry = directory.models[own]
    facts: ModelFacts = {"task": entry.task, "placements": list(entry.kinds)}
    if own != name:
        facts["alias_of"] = own
    else:
        facts["aliases"] = list(entry.aliases)
    if own in service_of(request).loaded.models:
        facts["state"] = "ready"
    if traits := await _traits(own, request):
        _add_abilities(facts, traits)
    return _listed(name, facts)


def _add_abilities(facts: ModelFacts, traits: Any) -> None:
    if isinstance(traits, SpeechTraits):
        facts["word_timestamps"], facts["phonemes"] = traits.word_times, traits.phonemes
        facts["clones"] = traits.clones
    elif isinstance(traits, RecognitionTraits):
        facts["languages"], facts["word_timestamps"] = list(traits.languages), traits.word_times
    else:
        facts["stems"] = list(traits.stems)


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
