"""Failures as HTTP answers in OpenAI's format: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Mapping
from itertools import islice
from typing import Any, Literal, NotRequired, TypeVar

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import TypedDict

from deployments.errors import REPORT_IT, Failure, Kind, MotetError, clipped, fail, in_one_line, quoted
from deployments.settings import documented
from deployments.validation import in_words, misspelt, plain_message
from serve_app.gateway.fields import NOT_HERE
from serve_app.gateway.request_context import current_request

logger = logging.getLogger("ray.serve")

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "rate_limit_error",
    "service_unavailable",
    "timeout_error",
    "server_error",
]
STATUS: Mapping[str, tuple[int, ErrorType]] = {
    "invalid": (400, "invalid_request_error"),
    "unauthorized": (401, "authentication_error"),
    "forbidden": (403, "permission_error"),
    "not_found": (404, "invalid_request_error"),
    "conflict": (409, "invalid_request_error"),
    "unsupported": (400, "invalid_request_error"),
    "too_large": (413, "invalid_request_error"),
    "wrong_media_type": (415, "invalid_request_error"),
    "storage_full": (507, "server_error"),
    "overloaded": (429, "rate_limit_error"),
    "unavailable": (503, "service_unavailable"),
    "timeout": (408, "timeout_error"),
    "engine": (500, "server_error"),
}
CLOSE_CODES: Mapping[str, int] = {
    "too_large": 1009,
    "overloaded": 1013,
    "unavailable": 1013,
    "timeout": 1013,
    "engine": 1011,
}
"""RFC 6455's close codes of WebSockets by kind of failure."""
CLIENT_ERROR = 1008
"""The close code of every other failure."""
MAX_MISTAKES = 5
"""The number of mistakes of one request that an answer lists."""
MAX_COMPARED = 16
"""The number of unknown fields of one request that are compared with the known ones. A comparison takes under 0.1 ms."""
RETRY_AFTER_S = 1.0
"""`Retry-After` of a failure that does not set it."""
COME_BACK = (429, 503)
"""Statuses after which another attempt may succeed."""

UNEXPECTED = Failure("engine", "The service failed on this request.", REPORT_IT, code="internal_error")

CLIENT_LEFT = 499
"""The status that nginx and Ray Serve log for a request whose client disconnected. It is never sent."""

LOGGED: Mapping[str, int] = {"engine": logging.ERROR, "unavailable": logging.WARNING}
"""The failure kinds that the client did not cause, with their log levels."""

Schema = TypeVar("Schema", bound=BaseModel)


@documented
class ErrorObject(TypedDict):
    """What is wrong, and what to do, in OpenAI's format."""

    message: str
    """The cause, and what to do about it."""
    type: ErrorType
    param: str | None
    """The field of the request at fault."""
    code: str | None
    """A stable word for programs."""
    retry_after: NotRequired[int]
    """Where another attempt may succeed (429, 503): the seconds until then, as in the header `Retry-After`, which events do
    not have."""


class ErrorAnswer(TypedDict):
    """The body of every error."""

    error: ErrorObject


class ErrorEvent(TypedDict):
    """The event with which a stream ends that fails after its beginning. What was sent before it is valid."""

    type: Literal["error"]
    error: ErrorObject


def error_body(failure: Failure) -> ErrorAnswer:
    """The JSON of an error answer, in OpenAI's format. The request's record gets the kind of the failure."""
    current_request().failure = failure.kind
    return {"error": error_fields(failure)}


def error_fields(failure: Failure) -> ErrorObject:
    """What a client learns about a failure, in OpenAI's format."""
    status, kind = STATUS[failure.kind]
    fields: ErrorObject = {"message": _with_id(failure), "type": kind, "param": failure.param, "code": failure.code}
    if status in COME_BACK:
        fields["retry_after"] = _retry_after(failure)
    return fields


def _with_id(failure: Failure) -> str:
    request_id = current_request().id
    return (
        f"{failure.message} Request id: {request_id}." if failure.kind == "engine" and request_id else failure.message
    )


def close_code(failure: Failure) -> int:
    """The code that closes a WebSocket after a failure."""
    return CLOSE_CODES.get(failure.kind, CLIENT_ERROR)


def log_failure(failure: Failure) -> None:
    """Logs one line with the cause of a failure that the client did not cause. The log of the replica has the traceback,
    under the same request id."""
    request = current_request()
    request.failure = failure.kind
    if level := LOGGED.get(failure.kind):
        logger.log(level, "%s failed: %s", request.title, failure.explained)


def log_unexpected(error: BaseException) -> Failure:
    """Logs the traceback of an exception that no code expects, and returns the failure for the client."""
    request = current_request()
    request.failure = UNEXPECTED.kind
    # Formatted here rather than by logging: see `deployments.replica.error_log`.
    lines = "".join(traceback.format_exception(error)).rstrip()
    logger.error("%s failed: %s\n%s", request.title, in_one_line(error), lines)
    return UNEXPECTED


def logged(error: Exception) -> Failure:
    """Logs an exception that no error handler sees, because its answer has started, and returns its failure."""
    if isinstance(error, MotetError):
        log_failure(error.failure)
        return error.failure
    return log_unexpected(error)


def error_response(failure: Failure) -> JSONResponse:
    """The answer for a failure, with its status and headers."""
    status = STATUS[failure.kind][0]
    headers = {"retry-after": str(_retry_after(failure))} if status in COME_BACK else {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status == 408:
        headers["connection"] = "close"  # the rest of the body would be taken for the next request
    return JSONResponse(error_body(failure), status, headers)


def _retry_after(failure: Failure) -> int:
    # The header takes whole seconds; rounded up, since a client that retries early is refused again.
    return max(1, math.ceil(failure.retry_after_s or RETRY_AFTER_S))


def validated(schema: type[Schema], fields: object, *, strict: bool) -> Schema:
    """The request's fields as `schema`; `fields` is a mapping or the bytes of a JSON object.

    An unknown field that is almost a known one is refused. Any other is ignored, and noted in the request's record; if
    `strict`, it is refused as well. Raises `MotetError` (invalid) that names the field and says what is wrong with it.
    """
    values = _json(fields, schema) if isinstance(fields, bytes) else fields
    if isinstance(values, Mapping):
        values = own_fields(schema, values, strict=strict)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if not fault["loc"]:
            raise _unreadable(schema, plain_message(fault), fault["type"]) from error
        lines = "; ".join(in_words(error, schema, MAX_MISTAKES))
        raise fail("invalid", f"{lines}.", param=clipped(str(fault["loc"][0])), code=fault["type"]) from error


def own_fields(schema: type[BaseModel], fields: Mapping[str, Any], *, strict: bool) -> dict[str, Any]:
    """The fields that `schema` has, and if `strict` the unknown ones as well: see `validated`."""
    values, unknown = _own_names(schema, fields)
    if strict:
        return values | unknown
    _ignore(unknown, schema)
    return values


def _json(data: bytes, schema: type[BaseModel]) -> Any:
    try:
        return from_json(data)
    except ValueError as error:
        raise _unreadable(schema, f"Invalid JSON: {error}", "json_invalid") from error


def _unreadable(schema: type[BaseModel], cause: str, code: str) -> MotetError:
    needed = ", ".join(repr(name) for name, field in schema.model_fields.items() if field.is_required())
    return fail("invalid", f"The body cannot be read: {cause}.", f"Send a JSON object with {needed}.", code=code)


def _own_names(schema: type[BaseModel], fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that the schema has, under its own names, and the others. A field that the request has also under the name
    of another server is used under its own."""
    foreign: Mapping[str, str] = getattr(schema, "foreign", {})
    known = {name: value for name, value in fields.items() if name in schema.model_fields}
    unknown = {}
    for name, value in fields.items():
        if (own := foreign.get(name)) and own not in known:
            known[own] = value
        elif name not in schema.model_fields:
            unknown[name] = value
    return known, unknown


def _ignore(unknown: Mapping[str, Any], schema: type[BaseModel]) -> None:
    """Notes the fields as ignored. Raises `MotetError` (invalid) if the schema has almost the same one, under its own name or
    that of another server."""
    foreign: Mapping[str, str] = getattr(schema, "foreign", {})
    valid = [*schema.model_fields, *foreign]
    unclear = (name for name in unknown if name not in NOT_HERE and name not in foreign)
    for name in islice(unclear, MAX_COMPARED):
        if meant := misspelt(name, valid):
            cause = f"{clipped(name)}: unknown field; did you mean {meant!r}?"
            remedy = f"Send {meant!r}, or leave {quoted(name)} out."
            raise fail("invalid", cause, remedy, param=clipped(name), code="extra_forbidden")
    current_request().ignore(unknown)


def install_error_handlers(api: FastAPI) -> None:
    """Gives every error of the application OpenAI's format. Call it after adding the routes."""

    @api.exception_handler(MotetError)
    async def _ours(request: Request, error: MotetError) -> Response:
        log_failure(error.failure)
        return error_response(error.failure)

    @api.exception_handler(ClientDisconnect)
    async def _left(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_LEFT)

    @api.exception_handler(HTTPException)
    async def _starlette(request: Request, error: HTTPException) -> Response:
        cause = f"{clipped(request.method)} {clipped(request.url.path)}: {error.detail}."
        kind: Kind = "not_found" if error.status_code == 404 else "invalid"
        response = error_response(
            Failure(kind, cause, "GET /openapi.json lists the paths and methods of this service.")
        )
        response.status_code = error.status_code
        response.headers.update(error.headers or {})
        return response

    @api.websocket("/{path:path}")
    async def _no_session(websocket: WebSocket) -> None:
        cause = f"{clipped(websocket.url.path)} does not accept WebSockets."
        failure = Failure(
            "not_found",
            cause,
            "Use /v1/realtime, /v1/audio/speech/stream or /v1/audio/enhancements/stream.",
            code="path_not_found",
        )
        await websocket.send_denial_response(error_response(failure))

    @api.exception_handler(RequestValidationError)
    async def _fastapi(request: Request, error: RequestValidationError) -> Response:
        fault = error.errors()[0]
        name = clipped(str(fault["loc"][-1]))
        return error_response(Failure("invalid", f"{name}: {fault['msg']}.", param=name, code=fault["type"]))

    api.add_middleware(UnhandledErrors)


class UnhandledErrors:
    """Logs exceptions that no handler takes, once: Starlette and Ray Serve would each log a traceback as well.

    An answer that has started stays without its end, so that the server closes the connection and the client sees that the
    answer is not complete.
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
            failure = _logged_once(error)
            if not started:
                await error_response(failure)(scope, receive, send)


def _logged_once(error: Exception) -> Failure:
    # Starlette wraps an exception that has a handler in a `RuntimeError` if the answer has started.
    cause = error.__cause__ if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception) else error
    return UNEXPECTED if isinstance(cause, ClientDisconnect) else logged(cause)
