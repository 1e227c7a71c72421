"""Errors of HAProxy and of Ray Serve's own servers, in OpenAI's format, for requests that do not reach the service.

This module imports no web framework, because the program that writes HAProxy's configuration uses it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from serve_app.edge.security_headers import secured

RETRY_AFTER_S: Mapping[int, int] = {429: 1, 503: 10}
"""`Retry-After` of the statuses that ask a client to retry. Before a gateway answers again, Ray Serve starts a new one."""


EARLY_HEADER = b"x-motet-early"
"""Passes HAProxy an error that is sent before the end of the request's body. HAProxy removes it."""
EARLY_STATUSES = (400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503, 507)
EARLY_HEADERS = ("x-request-id", "retry-after", "www-authenticate")
"""Headers that such an answer keeps."""


class EdgeError(NamedTuple):
    """The error of one status: OpenAI's type, a stable code, and a message with cause and remedy."""

    type: str
    code: str
    message: str


EDGE_ERRORS: Mapping[int, EdgeError] = {
    400: EdgeError(
        "invalid_request_error", "bad_request", "The request is not valid HTTP. Check its line and its headers."
    ),
    403: EdgeError(
        "permission_error", "forbidden", "This request is not allowed. Check the address that it is sent to."
    ),
    404: EdgeError("invalid_request_error", "not_found", "No route has this path. GET /openapi.json lists all paths."),
    405: EdgeError(
        "invalid_request_error",
        "method_not_allowed",
        "This path does not accept this method. GET /openapi.json lists those that it accepts.",
    ),
    408: EdgeError(
        "timeout_error",
        "request_timeout",
        "The request did not arrive in time. Send it again, without a pause in between.",
    ),
    413: EdgeError(
        "invalid_request_error", "body_too_large", "The request's body is too large. Send less, or in parts."
    ),
    429: EdgeError(
        "rate_limit_error", "overloaded", "The service is at its limit of requests. Send this one again later."
    ),
    431: EdgeError(
        "invalid_request_error", "headers_too_large", "The request's headers are too large. Send fewer or shorter ones."
    ),
    500: EdgeError("server_error", "internal_error", "The service failed on this request. Send it again."),
    502: EdgeError("server_error", "bad_gateway", "The service broke off this request. Send it again."),
    503: EdgeError("service_unavailable", "unavailable", "The service is not ready. Send the request again later."),
    504: EdgeError("server_error", "gateway_timeout", "The service did not answer in time. Send the request again."),
}


def edge_error_of(status: int) -> EdgeError:
    """The error of a status; a general one if it has none of its own."""
    return EDGE_ERRORS.get(status) or EDGE_ERRORS[400 if status < 500 else 500]


def edge_error_body(status: int) -> bytes:
    """`{"error": {message, type, param, code}}` as JSON."""
    error = edge_error_of(status)
    fields = {"message": error.message, "type": error.type, "param": None, "code": error.code}
    return json.dumps({"error": fields}, separators=(",", ":")).encode()


def edge_error_headers(status: int) -> list[tuple[bytes, bytes]]:
    """The headers of an answer with that body."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(edge_error_body(status)))]
    if (seconds := RETRY_AFTER_S.get(status)) is not None:
        headers.append((b"retry-after", b"%d" % seconds))
    if status == 408:
        headers.append((b"connection", b"close"))  # the rest of the body would be taken for the next request
    return secured(headers)
