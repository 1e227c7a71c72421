"""The body of `POST /v1/jobs`, read into a job's request."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from fastapi import Request
from pydantic_core import from_json

from deployments.errors import clipped, fail, quoted
from serve_app.gateway.bodies.arrival import FormArrival
from serve_app.gateway.bodies.input_thread import in_input_thread
from serve_app.gateway.bodies.json_bodies import INLINE_BYTES, check_content_type, check_structure
from serve_app.gateway.bodies.storage import Spool
from serve_app.gateway.jobs.blobs import BLOCK_BYTES, Uploads
from serve_app.gateway.jobs.body_requests import FindsFiles, Submission, of_body, of_fields
from serve_app.gateway.jobs.endpoints import Endpoint, endpoint_of
from serve_app.gateway.speaker_fields import REFERENCES

ENDPOINT = "endpoint"
FORM = "multipart/form-data"


async def read_submission(request: Request, blobs: Uploads, find: FindsFiles) -> Submission:
    """The endpoint's own form with the field `endpoint`, or JSON with `endpoint` and `body`. Raises `MotetError`."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() == FORM:
        return await _of_form(request, content_type, blobs, find)
    check_content_type(content_type)
    data = await request.body()
    endpoint, body = await in_input_thread(len(data) > INLINE_BYTES, _job_of, data)
    return await of_body(endpoint, body, blobs, find)


def _job_of(data: bytes) -> tuple[Endpoint, Mapping[str, Any]]:
    check_structure(data)
    try:
        values = from_json(data)
    except ValueError as error:
        raise _unreadable(f"Invalid JSON: {error}") from error
    if not isinstance(values, dict):
        raise _unreadable("It is not a JSON object")
    endpoint, body = endpoint_of(values.pop(ENDPOINT, None)), values.pop("body", None)
    if not isinstance(body, dict):
        raise _unreadable("It has no object 'body'")
    if values:
        name = next(iter(values))
        cause, remedy = (
            f"The body has the unknown field {quoted(name)}.",
            "The endpoint's own fields belong into 'body'.",
        )
        raise fail("invalid", cause, remedy, param=clipped(name), code="extra_forbidden")
    return endpoint, body


async def _of_form(request: Request, content_type: str, blobs: Uploads, find: FindsFiles) -> Submission:
    arrival = FormArrival(request, content_type, (REFERENCES,))
    try:
        await arrival.until(lambda: False)
        parser = arrival.parser
        endpoint = endpoint_of(dict(parser.fields).get(ENDPOINT))
        if not endpoint.files:
            raise fail("invalid", f"{endpoint.path} takes no form.", "Send JSON with 'endpoint' and 'body'.")
        files = [(name, await blobs.write(blocks_of(spool))) for name, spool in parser.files]
        return await of_fields(endpoint, [field for field in parser.fields if field[0] != ENDPOINT], files, find)
    finally:
        await arrival.close()


async def blocks_of(spool: Spool) -> AsyncGenerator[bytes]:
    """The content of a form's file that has arrived."""
    read = 0
    while block := await in_input_thread(spool.on_disk, spool.read_at, read, BLOCK_BYTES):
        read += len(block)
        yield block


def _unreadable(cause: str) -> Exception:
    remedy = "Send a JSON object with 'endpoint' and 'body', or the endpoint's form with the field 'endpoint'."
    return fail("invalid", f"The body cannot be read: {cause}.", remedy, code="json_invalid")
