"""JSON bodies: content type and structure are checked before a body is parsed into a strict schema.

Parsing time grows with the number of values rather than with the bytes: a megabyte of nested lists takes over a second, a
megabyte of text three milliseconds. No message of this service needs more than a dozen values.
"""

from __future__ import annotations

from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel

from deployments.errors import MotetError, clipped, fail
from serve_app.gateway.bodies.input_thread import in_input_thread
from serve_app.gateway.errors import validated

Schema = TypeVar("Schema", bound=BaseModel)

MAX_VALUES = 256
"""The most keys, values and brackets of a message."""
INLINE_BYTES = 16 * 1024
"""A body up to this size is parsed on the event loop, in less than 0.1 ms."""


async def read_json(schema: type[Schema], request: Request, *, strict: bool) -> Schema:
    """The body as `schema`, see `validated`. Raises `MotetError` (wrong_media_type, invalid)."""
    check_content_type(request.headers.get("content-type", ""))
    data = await request.body()
    return await in_input_thread(len(data) > INLINE_BYTES, _parsed, schema, data, strict)


def check_content_type(content_type: str) -> None:
    """Raises `MotetError` (wrong_media_type) for other types than JSON. Browsers let any web page send some of them to any
    address (a "simple request"), so those are refused."""
    if content_type.partition(";")[0].strip().lower() == "application/json":
        return
    sent = f"The body's content type is {clipped(content_type)}" if content_type else "The body has no content type"
    raise fail(
        "wrong_media_type",
        f"{sent}; send application/json.",
        "Send the header 'Content-Type: application/json'; with curl: -H 'Content-Type: application/json'.",
        param="Content-Type",
        code="unsupported_content_type",
    )


def _parsed(schema: type[Schema], data: bytes, strict: bool) -> Schema:
    check_structure(data)
    return validated(schema, data, strict=strict)


def check_structure(data: bytes, most: int = MAX_VALUES) -> None:
    """Raises `MotetError` (invalid) for JSON with more than `most` keys, values and brackets."""
    if values_in(data, most) > most:
        raise _too_many_values(most)


def values_in(data: bytes, most: int = MAX_VALUES) -> int:
    """An upper estimate of the keys, values and brackets in some JSON: at least as many as a parser meets before it ends or
    fails. Each step is one pass in C."""
    outside = data.replace(rb"\\", b"").replace(rb"\"", b"")
    strings = outside.count(b'"') // 2
    if strings > most:
        return strings
    outside = b"".join(outside.split(b'"')[::2])
    return strings + sum(outside.count(mark) for mark in (b",", b"[", b"{"))


def _too_many_values(most: int) -> MotetError:
    cause = f"The JSON has more than {most} keys and values."
    remedy = "Send a JSON object with the request's fields, which GET /openapi.json lists."
    return fail("invalid", cause, remedy, code="json_too_complex")
