"""Failures as HTTP answers in OpenAI's shape: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Mapping
from typing import Annotated, TypeVar

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, StringConstraints, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import REPORT_IT, Failure, MotetError, clipped, fail, in_one_line
from deployments.validation import in_words
from serve_app.gateway.middleware.request_name import REQUEST

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

UNEXPECTED = Failure("engine", "The service failed on this request.", REPORT_IT, code="internal_error")

CLIENT_LEFT = 499
"""nginx's status, and Ray Serve's, of a request whose client did not wait. It stands in the access log only."""

LOGGED: Mapping[str, int] = {"engine": logging.ERROR, "unavailable": logging.WARNING}
"""The failures that are not the client's, and how they are logged."""

Schema = TypeVar("Schema", bound=BaseModel)
ModelName = Annotated[str, StringConstraints(max_length=256)]
"""As a request names a model."""


def error_body(failure: Failure) -> dict[str, object]:
    """The answer's body."""
    kind = STATUS[failure.kind][1]
    return {"error": {"message": _with_id(failure), "type": kind, "param": failure.param, "code": failure.code}}


def _with_id(failure: Failure) -> str:
    """The message; that of an error that is to be reported has the id under which the log has the rest."""
    request_id = REQUEST.get().id
    return (
        f"{failure.message} Request id: {request_id}." if failure.kind == "engine" and request_id else failure.message
    )


def log_failure(failure: Failure) -> None:
    """One line with the cause, for a failure that is not the client's. The replica's log has the traceback."""
    if level := LOGGED.get(failure.kind):
        logger.log(level, "%s failed: %s", REQUEST.get().what, failure.explained)


def log_unexpected(error: BaseException) -> Failure:
    """The traceback of an exception that nobody expected, as text (see `deployments.replica.error_log`)."""
    lines = "".join(traceback.format_exception(error)).rstrip()
    logger.error("%s failed: %s\n%s", REQUEST.get().what, in_one_line(error), lines)
    return UNEXPECTED


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
        lines = "; ".join(in_words(error, schema, MOST_MISTAKES))
        raise fail("invalid", f"{lines}.", param=clipped(str(fault["loc"][0])), code=fault["type"]) from error


def install_error_handlers(api: FastAPI) -> None:
    """Makes every error of the application one of ours. Call it when the application has its routes."""

    @api.exception_handler(MotetError)
    async def _ours(request: Request, error: MotetError) -> Response:
        log_failure(error.failure)
        return error_response(error.failure)

    @api.exception_handler(ClientDisconnect)
    async def _left(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_LEFT)  # Ray Serve's access log has a line of it

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

    api.add_middleware(BrokenAnswers)


class BrokenAnswers:
    """Logs what no handler took, once: Starlette and Ray Serve would both log a traceback of it again.

    An answer that has begun is left without its end, so that the server cuts the connection and the client sees that the
    answer is not whole.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            failure = _logged(error)
            if not started:
                await error_response(failure)(scope, receive, send)


def _logged(error: Exception) -> Failure:
    """The failure of an answer. Starlette hides what a handler takes in a `RuntimeError` once the answer has begun."""
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    if isinstance(cause, MotetError):
        log_failure(cause.failure)
        return cause.failure
    return UNEXPECTED if isinstance(cause, ClientDisconnect) else log_unexpected(cause)
