"""Failures as HTTP answers in OpenAI's shape: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Annotated, TypeVar

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, StringConstraints, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from deployments.errors import Failure, MotetError, clipped, fail
from serve_app.config import mistakes_of

logger = logging.getLogger("ray.serve")

STATUS: Mapping[str, tuple[int, str]] = {
    "invalid": (400, "invalid_request_error"),
    "unauthorized": (401, "authentication_error"),
    "forbidden": (403, "permission_error"),
    "not_found": (404, "invalid_request_error"),
    "unsupported": (400, "invalid_request_error"),
    "too_large": (413, "invalid_request_error"),
    "wrong_media_type": (415, "invalid_request_error"),
    "storage_full": (507, "server_error"),
    "overloaded": (429, "rate_limit_error"),
    "unavailable": (503, "service_unavailable"),
    "timeout": (408, "timeout_error"),
    "engine": (500, "server_error"),
}
MOST_MISTAKES = 5
"""Of a request, that an answer tells."""
RETRY_AFTER_S = 1.0
"""Where a failure does not say."""

UNEXPECTED = Failure(
    "engine",
    "The service failed on this request, and has noted why.",
    "Try again; if it happens again, report the x-request-id of the answer to whoever runs this service.",
    code="internal_error",
)

Schema = TypeVar("Schema", bound=BaseModel)
ModelName = Annotated[str, StringConstraints(max_length=256)]
"""As a request names a model."""


def error_body(failure: Failure) -> dict[str, object]:
    """The answer's body."""
    kind = STATUS[failure.kind][1]
    return {"error": {"message": failure.message, "type": kind, "param": failure.param, "code": failure.code}}


def error_response(failure: Failure) -> JSONResponse:
    """The whole answer."""
    status = STATUS[failure.kind][0]
    headers = {"retry-after": _retry_after(failure)} if status in (429, 503) else {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status == 408:
        headers["connection"] = "close"  # what is left of the request would be taken for the next one
    return JSONResponse(error_body(failure), status, headers)


def _retry_after(failure: Failure) -> str:
    """Whole seconds, rounded up: the header knows no fractions, and early is refused again."""
    return str(max(1, math.ceil(failure.retry_after_s or RETRY_AFTER_S)))


def validated(schema: type[Schema], fields: object) -> Schema:
    """Checks a request's fields. Raises `MotetError` that names the field and says what is wrong with it."""
    try:
        if isinstance(fields, bytes):
            return schema.model_validate_json(fields)
        return schema.model_validate(fields)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if not fault["loc"]:
            needed = ", ".join(repr(name) for name, field in schema.model_fields.items() if field.is_required())
            cause = f"The body cannot be read: {fault['msg']}."
            raise fail("invalid", cause, f"Send a JSON object with {needed}.", code=fault["type"]) from error
        lines = "; ".join(mistakes_of(error, schema, MOST_MISTAKES))
        raise fail("invalid", f"{lines}.", param=clipped(str(fault["loc"][0])), code=fault["type"]) from error


def install_error_handlers(api: FastAPI) -> None:
    """Makes every error of the application one of ours. Call it when the application has its routes."""

    @api.exception_handler(MotetError)
    async def _ours(request: Request, error: MotetError) -> Response:
        return error_response(error.failure)

    @api.exception_handler(HTTPException)
    async def _starlette(request: Request, error: HTTPException) -> Response:
        kind = {404: "not_found", 405: "invalid"}.get(error.status_code, "invalid")
        cause = f"{clipped(request.method)} {clipped(request.url.path)}: {error.detail}."
        response = JSONResponse(
            error_body(Failure(kind, cause, "GET /openapi.json lists what this service answers.")),  # type: ignore[arg-type]
            error.status_code,
            error.headers,
        )
        return response

    @api.websocket("/{path:path}")
    async def _no_session(websocket: WebSocket) -> None:
        cause = f"{clipped(websocket.url.path)} takes no WebSocket."
        failure = Failure("not_found", cause, "Sessions are at /v1/audio/speech/stream.", code="path_not_found")
        await websocket.send_denial_response(error_response(failure))

    @api.exception_handler(RequestValidationError)
    async def _fastapi(request: Request, error: RequestValidationError) -> Response:
        fault = error.errors()[0]
        name = clipped(str(fault["loc"][-1]))
        return error_response(Failure("invalid", f"{name}: {fault['msg']}.", param=name, code=fault["type"]))

    @api.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> Response:
        logger.exception("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response(UNEXPECTED)
