"""GET /v1/registry: the models that could be added to this service, and those that are on its machine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from deployments.catalogue import entries
from deployments.catalogue.entries import CatalogueEntry
from deployments.catalogue.installed import InstalledModel, InstalledModels, RegistrySettings
from deployments.errors import MotetError, fail
from deployments.settings import documented
from serve_app.gateway.description.operation import Operation, json_answer
from serve_app.gateway.service import service_of

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
    size_bytes: int | None
    """null where not all sizes are known."""
    verified: bool
    """Whether independent manifests agree on the digests of its weights."""
    installed: bool
    """Whether its files are on the machine of the gateway that answers."""
    served: bool
    """Whether this service has a model of that name."""
    trial: TrialFacts | None


class Registry(TypedDict):
    """All models of the catalogue, and those that were added by their repository."""

    object: Literal["list"]
    data: list[RegistryModel]


LIST = Operation(id="list_registry", tag="Models", answers=(json_answer(Registry, "The models."),))


@router.get("/v1/registry", openapi_extra=LIST.extra, response_model=None)
async def registry(request: Request) -> Registry:
    """What could be added with `motet models add`, and what was: pinned commits, licences, sizes, and measured speed."""
    service = service_of(request)
    served = set(service.directory.offered)
    try:
        found = await asyncio.to_thread(lambda: list(_all(service.registry, served)))
    except MotetError as error:
        cause, remedy = "The catalogue or a note of this service cannot be read.", "The log of the service says which."
        raise fail("unavailable", cause, remedy, detail=error.failure.message) from error
    return {"object": "list", "data": found}


def _all(settings: RegistrySettings, served: set[str]) -> Iterator[RegistryModel]:
    catalogue = entries.load(Path(settings.catalogue).expanduser()) if settings.catalogue else entries.load()
    added = InstalledModels(settings).all()
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
        "size_bytes": note.size if note else entry.size,
        "verified": entry.verified,
        "installed": note is not None and note.is_here,
        "served": name in served,
        "trial": _trial(note),
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
        "size_bytes": note.size,
        "verified": note.verified,
        "installed": note.is_here,
        "served": note.name in served,
        "trial": _trial(note),
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
