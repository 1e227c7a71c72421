"""/v1/registry: the models that could be added to this service, and those that are on its machine; add one, or remove it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from deployments.catalogue.additions import Addition, AdditionState
from deployments.catalogue.entries import CatalogueEntry
from deployments.catalogue.installed import InstalledModel, InstalledModels, RegistrySettings, readable
from deployments.engines import registry as engines
from deployments.settings import StrictModel, documented
from serve_app.gateway.audit import audit
from serve_app.gateway.bodies.json_bodies import read_json
from serve_app.gateway.description.operation import JsonBody, Operation, json_answer
from serve_app.gateway.request_context import current_key
from serve_app.gateway.service import Service, service_of

router = APIRouter()


@documented
class TrialFacts(TypedDict):
    """How a model did when it was tried on the machine of the gateway that answers."""

    date: str
    machine: str
    load_seconds: float
    times_real_time: float
    """Seconds of audio for each second."""
    memory_bytes: int | None


@documented
class AdditionFacts(TypedDict):
    """How far a model is that is being added to the machine of the gateway that answers."""

    state: AdditionState
    """`fetching` its files and checking them, `trying` it, or `failed`."""
    received_bytes: int
    total_bytes: int | None
    """null until the hub has said it."""
    cause: str | None
    """Why it failed, and what to do; for admin keys only."""


@documented
class RegistryModel(TypedDict):
    """A model that could be added, or was."""

    id: str
    object: Literal["registry.model"]
    task: str
    about: str
    """Empty for a model that is not in the catalogue."""
    engine: str
    repository: str
    revision: str | None
    """The commit; null where adding pins the newest one."""
    licence: str
    parameters: str
    languages: list[str]
    hardware: list[str]
    """The classes on which its engine runs it."""
    clones: bool
    """Whether its engine makes voices from clips, so that it can speak with uploaded voices."""
    size_bytes: int | None
    """null where not all sizes are known."""
    verified: bool
    """Whether independent manifests agree on the digests of its weights."""
    installed: bool
    """Whether its files are on the machine of the gateway that answers."""
    served: bool
    """Whether this service has a model of that name."""
    trial: TrialFacts | None
    addition: AdditionFacts | None
    """null if it is not being added: it is here if it is `installed`."""


class Registry(TypedDict):
    """All models of the catalogue, and those that were added by their repository."""

    object: Literal["list"]
    data: list[RegistryModel]


class RegistryRemoval(TypedDict):
    """The addition is cancelled, or the model is removed."""

    id: str
    object: Literal["registry.model"]
    deleted: Literal[True]
    freed_bytes: int
    """0 for a cancelled addition: what was fetched stays, and adding the model again continues there."""


class ModelToAdd(StrictModel):
    """How a model of the catalogue is added."""

    model_config = ConfigDict(populate_by_name=True)

    hardware: Literal["cpu", "cuda", "mlx"] | None = None
    """The class on which it will run; null for the first of its own that the gateway's machine has."""
    try_it: bool = Field(False, alias="try")
    """Whether it is loaded and tried in a process beside the service when it is there. Loading it into the service
    (`POST /v1/models`) tries it, too."""


LIST = Operation(id="list_registry", tag="Models", answers=(json_answer(Registry, "The models."),))
ADD = Operation(
    id="add_model",
    tag="Admin",
    body=JsonBody(ModelToAdd),
    answers=(json_answer(RegistryModel, "The model is being added, or is here.", status=202),),
    errors=(403, 404, 429, 503, 507),
    example={"hardware": "cpu"},
)
REMOVE = Operation(
    id="remove_model",
    tag="Admin",
    answers=(json_answer(RegistryRemoval, "It is cancelled, or removed."),),
    errors=(403, 404, 409, 503),
)


@router.get("/v1/registry", openapi_extra=LIST.extra, response_model=None)
async def registry(request: Request) -> Registry:
    """What could be added with `POST /v1/registry/{name}` or `motet models add`, and what was: pinned commits, licences,
    sizes, and measured speed."""
    return {"object": "list", "data": await _models(service_of(request))}


@router.post("/v1/registry/{name:path}", status_code=202, openapi_extra=ADD.extra, response_model=None)
async def add_model(name: str, request: Request) -> RegistryModel:
    """Fetches a model of the catalogue to the machine of the gateway, and checks it, or continues after an interruption.

    The answer comes at once. `addition` in `GET /v1/registry` says how far it is; when it is null and the model is
    `installed`, `POST /v1/models` with `catalogue` loads it. The same request again changes nothing while it runs.
    """
    service = service_of(request)
    wanted = await read_json(ModelToAdd, request, strict=True)
    await service.additions.add(name, wanted.hardware, try_it=wanted.try_it)
    audit("registry_add", key=current_key().title, model=name)
    return next(model for model in await _models(service) if model["id"] == name)


@router.delete("/v1/registry/{name:path}", openapi_extra=REMOVE.extra, response_model=None)
async def remove_model(name: str, request: Request) -> RegistryRemoval:
    """Cancels the addition of a model; what was fetched stays for the next time. If it is not being added: removes it from
    the machine of the gateway, or what was fetched of it. A model that the service has is refused (409)."""
    service = service_of(request)
    served = name in {*service.directory.offered, *service.loaded.models}
    freed = await service.additions.remove(name, served=served)
    audit("registry_remove", key=current_key().title, model=name, freed_bytes=freed)
    return {"id": name, "object": "registry.model", "deleted": True, "freed_bytes": freed}


async def _models(service: Service) -> list[RegistryModel]:
    """All models of the registry. Raises `MotetError` (unavailable)."""
    served, explained = set(service.directory.offered), current_key().changes_models

    def read() -> list[RegistryModel]:
        additions = {name: _addition(each, explained) for name, each in service.additions.states().items()}
        with readable():
            return [{**model, "addition": additions.get(model["id"])} for model in _all(service.registry, served)]

    return await asyncio.to_thread(read)


def _addition(addition: Addition, explained: bool) -> AdditionFacts:
    return {
        "state": addition.state,
        "received_bytes": addition.received_bytes,
        "total_bytes": addition.total_bytes,
        "cause": addition.cause if explained else None,
    }


def _all(settings: RegistrySettings, served: set[str]) -> Iterator[RegistryModel]:
    catalogue, added = settings.model_catalogue, InstalledModels(settings).all()
    for name, entry in catalogue.models.items():
        yield _of_entry(name, entry, added.get(name), served)
    for name, model in added.items():
        if name not in catalogue.models:
            yield _of_note(model, served)


def _of_entry(name: str, entry: CatalogueEntry, note: InstalledModel | None, served: set[str]) -> RegistryModel:
    return {
        "id": name,
        "object": "registry.model",
        "task": entry.task,
        "about": entry.about,
        "engine": entry.engine,
        "repository": entry.repository,
        "revision": note.revision if note else entry.revision,
        "licence": entry.licence,
        "parameters": entry.parameters,
        "languages": list(entry.languages),
        "hardware": list(entry.hardware),
        "clones": engines.find(entry.engine).clones,
        "size_bytes": note.size if note else entry.size,
        "verified": entry.verified,
        "installed": note is not None and note.is_here,
        "served": name in served,
        "trial": _trial(note),
        "addition": None,
    }


def _of_note(note: InstalledModel, served: set[str]) -> RegistryModel:
    return {
        "id": note.name,
        "object": "registry.model",
        "task": note.task,
        "about": "",
        "engine": note.engine,
        "repository": note.repository,
        "revision": note.revision,
        "licence": note.licence,
        "parameters": "",
        "languages": [],
        "hardware": [note.hardware],
        "clones": engines.find(note.engine).clones,
        "size_bytes": note.size,
        "verified": note.verified,
        "installed": note.is_here,
        "served": note.name in served,
        "trial": _trial(note),
        "addition": None,
    }


def _trial(note: InstalledModel | None) -> TrialFacts | None:
    if note is None or note.trial is None:
        return None
    trial = note.trial
    return {
        "date": trial.date,
        "machine": trial.machine,
        "load_seconds": trial.load_seconds,
        "times_real_time": round(trial.times_real_time, 2),
        "memory_bytes": trial.memory_bytes,
    }
