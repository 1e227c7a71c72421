"""GET /v1/models: what this service can do."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from deployments.errors import fail
from serve_app.api_types import service_of
from serve_app.placement import ModelDirectory

router = APIRouter()


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """Every model and alias."""
    directory = service_of(request).directory
    names = [*directory.models, *directory.aliases]
    return {"object": "list", "data": [await _entry(directory, name) for name in names]}


@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> dict[str, Any]:
    """One model or alias."""
    directory = service_of(request).directory
    if name not in directory.models and name not in directory.aliases:
        known = ", ".join(directory.models)
        raise fail(
            "not_found",
            f"The model {name!r} does not exist.",
            f"Models: {known}.",
            param="model",
            code="model_not_found",
        )
    return await _entry(directory, name)


async def _entry(directory: ModelDirectory, name: str) -> dict[str, Any]:
    own = directory.aliases.get(name, name)
    config = directory.models[own]
    facts: dict[str, Any] = {"task": config.task, "placements": [p.hardware.kind for p in config.placements]}
    if own != name:
        facts["alias_of"] = own
    else:
        facts["aliases"] = list(config.aliases)
    if config.task == "separation":
        facts["stems"] = list((await directory.traits(own)).stems)
    return {"id": name, "object": "model", "created": 0, "owned_by": "motet", "motet": facts}
