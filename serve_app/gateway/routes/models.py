"""GET /v1/models: the models of this service and what they do."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from deployments.errors import MotetError, fail, quoted
from serve_app.gateway.service import service_of

router = APIRouter()


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """Every model and alias, whether or not it answers now. All are asked at the same time."""
    directory = service_of(request).directory
    names = [*directory.models, *directory.aliases]
    return {"object": "list", "data": await asyncio.gather(*(_entry(name, request) for name in names))}


@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> dict[str, Any]:
    """One model or alias."""
    directory = service_of(request).directory
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


async def _entry(name: str, request: Request) -> dict[str, Any]:
    directory = service_of(request).directory
    own = directory.aliases.get(name, name)
    entry = directory.models[own]
    facts: dict[str, Any] = {"task": entry.task, "placements": list(entry.kinds)}
    if own != name:
        facts["alias_of"] = own
    else:
        facts["aliases"] = list(entry.aliases)
    if entry.task == "separation" and (stems := await _stems(own, request)):
        facts["stems"] = stems
    return {"id": name, "object": "model", "created": 0, "owned_by": "motet", "motet": facts}


async def _stems(name: str, request: Request) -> list[str]:
    """The stems of a model; nothing if no replica can tell. None is started or waited for."""
    service = service_of(request)
    placed = service.directory.placements(name)
    await asyncio.gather(*(each.refresh() for each in placed))
    if not any(each.alive for each in placed):
        return []
    try:
        async with asyncio.timeout(service.settings.spillover.silent_s + service.settings.spillover.life_sign_s):
            return list((await service.directory.traits(name)).stems)
    except (MotetError, TimeoutError):
        return []
