"""/v1/files: files for jobs and batches, in OpenAI's format."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from deployments.audio.formats import FORMATS
from serve_app.gateway.bodies.uploads import FormFields, read_form
from serve_app.gateway.description.operation import (
    AnswerContent,
    DescribedAnswer,
    FormBody,
    Operation,
    json_answer,
    sounds,
)
from serve_app.gateway.errors import validated
from serve_app.gateway.fields import RequestFields
from serve_app.gateway.jobs.answers import FileDeleted, FileList, FileObject
from serve_app.gateway.jobs.blobs import BLOCK_BYTES
from serve_app.gateway.jobs.files import files_of
from serve_app.gateway.jobs.jobs import jobs_of
from serve_app.gateway.service import service_of

router = APIRouter()


class ExpiresAfter(RequestFields):
    """When a file expires: this many seconds after it was created."""

    anchor: Literal["created_at"] = "created_at"
    """From when the time counts."""
    seconds: Annotated[int, Field(ge=1)]
    """How long the file is kept."""


class FileFields(RequestFields):
    """The form's fields, without the file."""

    purpose: Literal["batch", "user_data"]
    """What the file is for: `batch` for the input of a batch, `user_data` for recordings of jobs."""
    expires_after: ExpiresAfter | None = None
    """How long the file is kept, as fields such as `expires_after[seconds]`."""


CREATE = Operation(
    id="create_file",
    tag="Jobs",
    body=FormBody(FileFields, FormFields()),
    answers=(json_answer(FileObject, "The file."),),
    example={"purpose": "user_data"},
)
LIST = Operation(id="list_files", tag="Jobs", answers=(json_answer(FileList, "The files."),), errors=(404,))
GET = Operation(id="get_file", tag="Jobs", answers=(json_answer(FileObject, "The file."),))
CONTENT = Operation(
    id="get_file_content",
    tag="Jobs",
    answers=(
        DescribedAnswer(
            "The content.",
            (
                AnswerContent("application/octet-stream"),
                AnswerContent("application/jsonl"),
                AnswerContent("application/zip"),
                *sounds(FORMATS),
            ),
            headers=("content-disposition",),
        ),
    ),
    output="file",
)
DELETE = Operation(id="delete_file", tag="Jobs", answers=(json_answer(FileDeleted, "The file is deleted."),))


@router.post("/v1/files", openapi_extra=CREATE.extra)
async def create_file(request: Request) -> dict[str, Any]:
    """Uploads a file."""
    service = service_of(request)
    form = await read_form(request)
    try:
        fields = validated(FileFields, form.fields, strict=service.settings.strict)
        keep_s = fields.expires_after.seconds if fields.expires_after else None
        viewer, name = service.viewer(request), form.file.name or "file"
        async with jobs_of(request).blobs.uploads() as uploads:
            blob = await uploads.write(form.file.blocks(BLOCK_BYTES))
            file = await files_of(request).add(viewer, blob, name, fields.purpose, keep_s)
    finally:
        await form.close()
    return file.as_json()


@router.get("/v1/files", openapi_extra=LIST.extra)
async def files(
    request: Request,
    purpose: Annotated[str | None, Query(description="Only files of this purpose.")] = None,
    after: Annotated[str | None, Query(description="The last file of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description="The most files of a page.")] = 1000,
    order: Annotated[Literal["asc", "desc"], Query(description="By time: `desc` for the newest first.")] = "desc",
) -> dict[str, Any]:
    """The client's own files."""
    viewer = service_of(request).viewer(request)
    found, more = await files_of(request).listed(viewer, purpose, after, limit, newest_first=order == "desc")
    data = [file.as_json() for file in found]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}


@router.get("/v1/files/{file_id}", openapi_extra=GET.extra)
async def file_of_id(request: Request, file_id: str) -> dict[str, Any]:
    """One file's entry."""
    return (await files_of(request).get(service_of(request).viewer(request), file_id)).as_json()


@router.get("/v1/files/{file_id}/content", openapi_extra=CONTENT.extra)
async def file_content(request: Request, file_id: str) -> Response:
    """One file's content."""
    own = files_of(request)
    file = await own.get(service_of(request).viewer(request), file_id)
    headers = {
        "content-length": str(file.blob.bytes),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(file.name, safe='')}",
        "x-content-type-options": "nosniff",
    }
    return StreamingResponse(own.content(file), headers=headers, media_type=file.media_type)


@router.delete("/v1/files/{file_id}", openapi_extra=DELETE.extra)
async def delete_file(request: Request, file_id: str) -> dict[str, Any]:
    """Deletes a file. Jobs that were made with it go on."""
    await files_of(request).delete(service_of(request).viewer(request), file_id)
    return {"id": file_id, "object": "file", "deleted": True}
