"""/v1/jobs: requests that run later, and longer than a request may."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import ConfigDict, Field
from starlette.responses import JSONResponse, Response, StreamingResponse

from deployments.audio.formats import FORMATS
from deployments.errors import fail, quoted
from serve_app.gateway.bodies.uploads import FormFields
from serve_app.gateway.description.headers import ANSWER_HEADERS
from serve_app.gateway.description.operation import (
    AnswerContent,
    DescribedAnswer,
    FormBody,
    JsonBody,
    Operation,
    events_content,
    json_answer,
    sounds,
)
from serve_app.gateway.draining import Drain
from serve_app.gateway.errors import ErrorEvent
from serve_app.gateway.fields import RequestFields
from serve_app.gateway.idempotency.key_header import KEY_HEADER, check_key
from serve_app.gateway.jobs.answers import JobDeleted, JobList, JobNews, JobObject
from serve_app.gateway.jobs.endpoints import ENDPOINTS, endpoint_of
from serve_app.gateway.jobs.files import files_of
from serve_app.gateway.jobs.jobs import LOOK_EVERY_S, jobs_of
from serve_app.gateway.jobs.records import Blob, JobEvent
from serve_app.gateway.jobs.submission import read_submission
from serve_app.gateway.service import service_of
from serve_app.gateway.sse import event
from serve_app.gateway.streaming import event_stream

router = APIRouter()

SIGN_OF_LIFE_S = 15.0
"""How often a stream without news sends a comment, so that no proxy takes it for dead."""

PATHS = list(ENDPOINTS)
FORM_PATHS = [path for path, endpoint in ENDPOINTS.items() if endpoint.files]
ANY_JSON = dict[str, Any]


class JobBody(RequestFields):
    """A request of an endpoint. `submission.py` reads it."""

    endpoint: Annotated[str, Field(json_schema_extra={"enum": PATHS})]
    """The path of the endpoint that answers it."""
    body: Mapping[str, Any]
    """The endpoint's own fields. Files are ids of `/v1/files`."""


class JobFields(RequestFields):
    """The endpoint's own form, with its path in the field `endpoint`. `submission.py` reads it."""

    model_config = ConfigDict(extra="allow")

    endpoint: Annotated[str, Field(json_schema_extra={"enum": FORM_PATHS})]
    """The path of the endpoint that answers it."""


CREATE = Operation(
    id="create_job",
    tag="Jobs",
    body=JsonBody(JobBody),
    form=FormBody(JobFields, FormFields()),
    headers=("Idempotency-Key",),
    answers=(
        DescribedAnswer(
            "The job is queued.",
            (AnswerContent("application/json", JobObject),),
            status=202,
            headers=("location", "idempotent-replayed"),
        ),
    ),
    errors=(404, 409),
    example={"endpoint": "/v1/audio/speech", "body": {"model": "tts-1", "voice": "alloy", "input": "Hello there."}},
)
LIST = Operation(id="list_jobs", tag="Jobs", answers=(json_answer(JobList, "The jobs."),), errors=(404,))
GET = Operation(id="get_job", tag="Jobs", answers=(json_answer(JobObject, "The job."),))
DELETE = Operation(id="delete_job", tag="Jobs", answers=(json_answer(JobDeleted, "The job is deleted."),))
EVENTS = Operation(
    id="get_job_events",
    tag="Jobs",
    headers=("Last-Event-ID",),
    answers=(DescribedAnswer("The events, until the job ends.", (events_content(JobNews | ErrorEvent),)),),
)
RESULT = Operation(
    id="get_job_result",
    tag="Jobs",
    answers=(
        DescribedAnswer(
            "What the endpoint answered.",
            (
                *sounds(FORMATS),
                AnswerContent("application/zip"),
                AnswerContent("application/json", ANY_JSON),
                AnswerContent("text/plain", str),
                AnswerContent("text/vtt", str),
            ),
            headers=tuple(ANSWER_HEADERS),
        ),
    ),
    errors=(409, 413, 507),
    output="result",
)


@router.post("/v1/jobs", status_code=202, openapi_extra=CREATE.extra)
async def create_job(request: Request) -> Response:
    """Makes a job of a request; with an `Idempotency-Key` once."""
    service, jobs, files = service_of(request), jobs_of(request), files_of(request)
    viewer, key = service.viewer(request), request.headers.get(KEY_HEADER)
    if key is not None:
        check_key(key)

    async def find(id: str) -> Blob:
        return (await files.get(viewer, id)).blob

    async with jobs.blobs.uploads() as uploads:
        made = await read_submission(request, uploads, find)
        endpoint = endpoint_of(made.request.endpoint)
        if made.model is not None:
            service.directory.resolve(made.model, endpoint.task)
        elif not endpoint.model_optional:
            remedy = "GET /v1/models lists them."
            raise fail("invalid", "The job names no model.", remedy, param="model", code="missing")
        job, new = await jobs.add(viewer, made.request, made.blobs, key)
    headers = {"location": f"/v1/jobs/{job.id}"} | ({} if new else {"idempotent-replayed": "true"})
    return JSONResponse(job.as_json(jobs.settings.keep_s), 202, headers)


@router.get("/v1/jobs", openapi_extra=LIST.extra)
async def jobs(
    request: Request,
    after: Annotated[str | None, Query(description="The last job of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="The most jobs of a page.")] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="By time: `desc` for the newest first.")] = "desc",
) -> dict[str, Any]:
    """The client's own jobs, without those of batches."""
    own = jobs_of(request)
    viewer = service_of(request).viewer(request)
    page = await own.listed(viewer, after, limit, newest_first=order == "desc")
    data = [job.as_json(own.settings.keep_s) for job in page.jobs]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": page.more}


@router.get("/v1/jobs/{job_id}", openapi_extra=GET.extra)
async def job_of_id(request: Request, job_id: str) -> dict[str, Any]:
    """One job."""
    own = jobs_of(request)
    return (await own.get(service_of(request).viewer(request), job_id)).as_json(own.settings.keep_s)


@router.get("/v1/jobs/{job_id}/events", openapi_extra=EVENTS.extra)
async def job_events(request: Request, job_id: str) -> Response:
    """What happens to a job, as server-sent events until it ends."""
    own, viewer = jobs_of(request), service_of(request).viewer(request)
    await own.get(viewer, job_id)
    after = _event_number(request.headers.get("last-event-id"))
    return await event_stream(_events(own.events(viewer, job_id, after), service_of(request).drain))


async def _events(found: AsyncGenerator[JobEvent | None], drain: Drain) -> AsyncGenerator[bytes]:
    """The events until the job ends, or the gateway: then the client asks another one for the rest."""
    silent_s = SIGN_OF_LIFE_S  # the answer begins at once, also where there is nothing new
    async with aclosing(found):
        async for each in found:
            if each is not None:
                silent_s = 0.0
                yield event({"type": each.type, "job": each.job}, str(each.number))
                continue
            if drain.begun:
                return
            if silent_s >= SIGN_OF_LIFE_S:
                silent_s = 0.0
                yield b": waiting\n\n"
            silent_s += LOOK_EVERY_S


@router.get("/v1/jobs/{job_id}/result", openapi_extra=RESULT.extra)
async def job_result(request: Request, job_id: str) -> Response:
    """What the endpoint answered: the body of a success with its content type, or the error with its status."""
    own = jobs_of(request)
    job = await own.get(service_of(request).viewer(request), job_id)
    if job.answer is None:
        cause = f"The job is {job.status}."
        remedy = f"Wait for it: GET /v1/jobs/{job.id}/events says when it ends."
        raise fail("conflict", cause, remedy, code="job_not_ended")
    if job.answer.body is None:
        return JSONResponse({"error": job.answer.error}, job.answer.status)
    headers = {**dict(job.answer.headers), "content-length": str(job.answer.body.bytes)}
    await own.blobs.blob(job.answer.body.digest)
    return StreamingResponse(own.blobs.blocks(job.answer.body.digest), headers=headers)


@router.delete("/v1/jobs/{job_id}", openapi_extra=DELETE.extra)
async def delete_job(request: Request, job_id: str) -> dict[str, Any]:
    """Cancels a job, and deletes it with its result."""
    await jobs_of(request).delete(service_of(request).viewer(request), job_id)
    return {"id": job_id, "object": "job.deleted", "deleted": True}


def _event_number(text: str | None) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        remedy = "Send the id of the last event that you received, or none."
        raise fail("invalid", f"{quoted(text)} is no id of an event.", remedy, param="Last-Event-ID")
    return int(text)
