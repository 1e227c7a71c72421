"""POST /v1/models, DELETE /v1/models/{id} and GET /v1/admin/models: models come and go while the service runs."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic_core import from_json
from typing_extensions import TypedDict

from deployments.errors import fail
from deployments.settings import documented
from serve_app.gateway.audit import audit
from serve_app.gateway.bodies.json_bodies import check_content_type, check_structure
from serve_app.gateway.description.operation import JsonBody, Operation, json_answer
from serve_app.gateway.errors import validated
from serve_app.gateway.request_context import current_key
from serve_app.gateway.service import Service, service_of
from serve_app.loading.fields import ModelToLoad, filled
from serve_app.loading.records import LoadState, ModelLoad

router = APIRouter()


@documented
class LoadingFacts(TypedDict):
    """A model that was loaded while the service runs, for the operator."""

    id: str
    object: Literal["model"]
    created: int
    """When it got this state, in Unix seconds."""
    owned_by: Literal["motet"]
    task: str
    placements: list[str]
    """Its classes of hardware, in order of preference."""
    aliases: list[str]
    state: LoadState
    """A `loading` model is refused with 503, and a `failed` or `unloading` one with 404."""
    cause: str | None
    """Why it failed, and what to do."""
    open_requests: int
    """Requests that use it in the gateway replica that answers."""
    settings: dict[str, Any]
    """As a configuration has them."""


class LoadingList(TypedDict):
    """Every model that was loaded while the service runs."""

    object: Literal["list"]
    data: list[LoadingFacts]


class ModelUnloaded(TypedDict):
    """The model takes no new requests. It leaves memory when its open ones have ended."""

    id: str
    object: Literal["model"]
    deleted: Literal[True]


LOAD = Operation(
    id="load_model",
    tag="Admin",
    body=JsonBody(ModelToLoad),
    answers=(json_answer(LoadingFacts, "The model is being loaded.", status=202),),
    errors=(403, 404, 409, 503),
    example={"id": "second-voice", "engine": "hibari", "source": "wheel:hibari-tts"},
)
UNLOAD = Operation(
    id="unload_model",
    tag="Admin",
    answers=(json_answer(ModelUnloaded, "The model takes no new requests.", status=202),),
    errors=(403, 404, 409, 503),
)
LIST = Operation(id="list_loaded_models", tag="Admin", answers=(json_answer(LoadingList, "The models."),))


@router.post("/v1/models", status_code=202, openapi_extra=LOAD.extra, response_model=None)
async def load_model(request: Request) -> LoadingFacts:
    """Loads one more model into the running service, with the settings of an entry of `models` in the configuration, or one
    that `motet models add` fetched (`catalogue`). Other models and open requests are not touched.

    The answer comes before the model is loaded: `GET /v1/admin/models` says when it is `ready`, or why it `failed`. The model
    stays until it is unloaded or the service ends.
    """
    service = service_of(request)
    check_content_type(request.headers.get("content-type", ""))
    fields = await asyncio.to_thread(filled, _object(await request.body()), service.loaded.registry)
    wanted = validated(ModelToLoad, fields, strict=True)
    audit("model_load", key=current_key().title, model=wanted.id, engine=wanted.engine, source=wanted.source)
    return _facts(service, await service.loaded.load(wanted))


@router.delete("/v1/models/{name:path}", status_code=202, openapi_extra=UNLOAD.extra, response_model=None)
async def unload_model(name: str, request: Request) -> ModelUnloaded:
    """Unloads a model that was loaded with `POST /v1/models`. New requests for it get 404 from now on. Open ones may end,
    within `drain_s`; then its memory is free."""
    audit("model_unload", key=current_key().title, model=name)
    await service_of(request).loaded.unload(name)
    return {"id": name, "object": "model", "deleted": True}


@router.get("/v1/admin/models", openapi_extra=LIST.extra, response_model=None)
async def loaded_models(request: Request) -> LoadingList:
    """The models that were loaded while the service runs, with their states and settings."""
    service = service_of(request)
    return {"object": "list", "data": [_facts(service, model) for model in service.loaded.models.values()]}


def _object(data: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises `MotetError` (invalid)."""
    check_structure(data)
    try:
        fields = from_json(data)
    except ValueError as error:
        raise fail("invalid", f"The body cannot be read: Invalid JSON: {error}.", "Send a JSON object.") from error
    if not isinstance(fields, dict):
        raise fail("invalid", "The body is not a JSON object.", "Send one with 'id' and 'engine'.")
    return fields


def _facts(service: Service, loaded: ModelLoad) -> LoadingFacts:
    model = loaded.model
    return {
        "id": loaded.id,
        "object": "model",
        "created": int(loaded.since),
        "owned_by": "motet",
        "task": model.task,
        "placements": [placement.hardware.kind for placement in model.placements],
        "aliases": list(model.aliases),
        "state": loaded.state,
        "cause": loaded.cause or None,
        "open_requests": service.loaded.open_requests(loaded.id),
        "settings": model.model_dump(mode="json", exclude_defaults=True),
    }
