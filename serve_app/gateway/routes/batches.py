"""/v1/batches: many requests in one file, in OpenAI's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field, StringConstraints

from serve_app.gateway.bodies.json_bodies import read_json
from serve_app.gateway.description.operation import JsonBody, Operation, json_answer
from serve_app.gateway.fields import RequestFields
from serve_app.gateway.jobs.answers import BatchList, BatchObject
from serve_app.gateway.jobs.batches import batches_of
from serve_app.gateway.jobs.endpoints import endpoint_of
from serve_app.gateway.jobs.files import files_of
from serve_app.gateway.jobs.jobs import jobs_of
from serve_app.gateway.service import service_of

router = APIRouter()

MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]


class BatchBody(RequestFields):
    """The body of a new batch."""

    input_file_id: Annotated[str, StringConstraints(max_length=64)]
    """An uploaded file with a request a line."""
    endpoint: Annotated[str, StringConstraints(max_length=64)]
    """The path of the endpoint that answers the requests."""
    completion_window: Literal["24h"] = "24h"
    """Accepted as OpenAI's clients send it."""
    metadata: Annotated[Mapping[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    """Texts of your own."""


CREATE = Operation(
    id="create_batch",
    tag="Jobs",
    body=JsonBody(BatchBody),
    answers=(json_answer(BatchObject, "The batch."),),
    errors=(404, 507),
    example={"input_file_id": "file-0123456789abcdef0123456789abcdef", "endpoint": "/v1/audio/speech"},
)
LIST = Operation(id="list_batches", tag="Jobs", answers=(json_answer(BatchList, "The batches."),), errors=(404,))
GET = Operation(id="get_batch", tag="Jobs", answers=(json_answer(BatchObject, "The batch."),))
CANCEL = Operation(id="cancel_batch", tag="Jobs", answers=(json_answer(BatchObject, "The batch."),), errors=(409,))


@router.post("/v1/batches", openapi_extra=CREATE.extra)
async def create_batch(request: Request) -> dict[str, Any]:
    """Makes a batch of the requests in an uploaded file."""
    service = service_of(request)
    body = await read_json(BatchBody, request, strict=service.settings.strict)
    viewer, endpoint = service.viewer(request), endpoint_of(body.endpoint)
    file = await files_of(request).get(viewer, body.input_file_id)
    batch = await batches_of(request).add(viewer, file, endpoint, body.metadata)
    jobs_of(request).added.set()
    return batch.as_json(service.settings.jobs.max_wait_s)


@router.get("/v1/batches", openapi_extra=LIST.extra)
async def batches(
    request: Request,
    after: Annotated[str | None, Query(description="The last batch of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="The most batches of a page.")] = 20,
) -> dict[str, Any]:
    """The client's own batches, the newest first."""
    service = service_of(request)
    found, more = await batches_of(request).listed(service.viewer(request), after, limit)
    data = [batch.as_json(service.settings.jobs.max_wait_s) for batch in found]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}


@router.get("/v1/batches/{batch_id}", openapi_extra=GET.extra)
async def batch_of_id(request: Request, batch_id: str) -> dict[str, Any]:
    """One batch."""
    service = service_of(request)
    batch = await batches_of(request).get(service.viewer(request), batch_id)
    return batch.as_json(service.settings.jobs.max_wait_s)


@router.post("/v1/batches/{batch_id}/cancel", openapi_extra=CANCEL.extra)
async def cancel_batch(request: Request, batch_id: str) -> dict[str, Any]:
    """Cancels a batch. What was answered by then will be in its files."""
    service = service_of(request)
    batch = await batches_of(request).cancel(service.viewer(request), batch_id)
    jobs_of(request).added.set()
    return batch.as_json(service.settings.jobs.max_wait_s)
