"""Errors of HAProxy and of Ray Serve's own servers, in OpenAI's shape: what is answered when the service itself is not asked.

No web framework is imported here, since HAProxy's configuration is written with it in a program of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

RETRY_AFTER_S = 1
"""With the statuses that ask a client to come again."""
RETRIED = (429, 503)


EARLY_HEADER = b"x-motet-early"
"""Tells HAProxy the body of an error that comes before the request's body has; no client sees it."""
EARLY_STATUSES = (400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503, 507)
EARLY_HEADERS = ("x-request-id", "retry-after", "www-authenticate")
"""Headers that such an answer keeps."""


class EdgeError(NamedTuple):
    """One status: OpenAI's type, a stable code, and a message with cause and remedy."""

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
    404: EdgeError(
        "invalid_request_error", "not_found", "No service has this path. GET /openapi.json lists what is answered."
    ),
    405: EdgeError(
        "invalid_request_error", "method_not_allowed", "This path does not have this method. Use another one."
    ),
    408: EdgeError(
        "timeout_error",
        "request_timeout",
        "The request did not arrive in time. Send it again, without a pause in between.",
    ),
    413: EdgeError(
        "invalid_request_error", "body_too_large", "The request's body is too large. Send less, or in parts."
    ),
    429: EdgeError("rate_limit_error", "overloaded", "There is no room for this request now. Send it again later."),
    431: EdgeError(
        "invalid_request_error", "headers_too_large", "The request's headers are too large. Send fewer or shorter ones."
    ),
    500: EdgeError("server_error", "internal_error", "The service failed on this request. Send it again."),
    502: EdgeError("server_error", "bad_gateway", "The service broke off this request. Send it again."),
    503: EdgeError("service_unavailable", "unavailable", "The service is not ready. Send the request again later."),
    504: EdgeError("server_error", "gateway_timeout", "The service did not answer in time. Send the request again."),
}


def edge_error_of(status: int) -> EdgeError:
    """The error of a status; the nearest general one where it has none of its own."""
    return EDGE_ERRORS.get(status) or EDGE_ERRORS[400 if status < 500 else 500]


def edge_error_body(status: int) -> bytes:
    """`{"error": {message, type, param, code}}` as JSON."""
    error = edge_error_of(status)
    fields = {"message": error.message, "type": error.type, "param": None, "code": error.code}
    return json.dumps({"error": fields}, separators=(",", ":")).encode()


def edge_error_headers(status: int) -> list[tuple[bytes, bytes]]:
    """The headers of an answer with that body."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(edge_error_body(status)))]
    if status in RETRIED:
        headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    if status == 408:
        headers.append((b"connection", b"close"))  # what is left of the request would be taken for the next one
    return headers
