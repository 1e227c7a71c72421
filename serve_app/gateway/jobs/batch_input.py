"""The input of a batch: lines of JSON in OpenAI's format, each a request with an id of its client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from deployments.errors import MotetError, fail
from serve_app.gateway.bodies.json_bodies import check_structure

MOST_MISTAKES = 100
"""Mistakes of one input that are reported."""
MAX_ID_CHARACTERS = 512


@dataclass(frozen=True, slots=True)
class InputLine:
    """A line, which has its number from 1 on."""

    number: int
    custom_id: str
    body: Mapping[str, Any]


async def lines_of(blocks: AsyncIterable[bytes], most_bytes: int) -> AsyncGenerator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers. Raises `MotetError` (too_large) for one that is too long."""
    rest, number = b"", 0
    async for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            number += 1
            if len(line) > most_bytes:
                raise _too_long(number, most_bytes)
            if line.strip():
                yield number, line
        if len(rest) > most_bytes:
            raise _too_long(number + 1, most_bytes)
    if rest.strip():
        yield number + 1, rest


def parsed(number: int, line: bytes, endpoint: str, seen: set[str]) -> InputLine:
    """The request of a line. `seen` gets its id. Raises `MotetError` (invalid)."""
    check_structure(line)
    try:
        values = from_json(line)
    except ValueError as error:
        raise _wrong("It is not valid JSON.", "invalid_json_line") from error
    if not isinstance(values, dict):
        raise _wrong("It is not a JSON object.", "invalid_json_line")
    custom_id, body = values.get("custom_id"), values.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_ID_CHARACTERS:
        raise _wrong(f"It has no custom_id of up to {MAX_ID_CHARACTERS} characters.", "missing_custom_id", "custom_id")
    if custom_id in seen:
        raise _wrong("Another line has the same custom_id.", "duplicate_custom_id", "custom_id")
    if values.get("method") != "POST":
        raise _wrong("Its method is not POST.", "invalid_method", "method")
    if values.get("url") != endpoint:
        raise _wrong(f"Its url is not the batch's endpoint {endpoint}.", "mismatched_url", "url")
    if not isinstance(body, dict):
        raise _wrong("It has no object 'body'.", "missing_body", "body")
    seen.add(custom_id)
    return InputLine(number, custom_id, body)


def mistake(number: int | None, error: MotetError) -> dict[str, Any]:
    """A mistake of a line in OpenAI's format."""
    failure = error.failure
    return {"line": number, "code": failure.code or failure.kind, "message": failure.message, "param": failure.param}


def _wrong(cause: str, code: str, param: str | None = None) -> MotetError:
    return fail("invalid", cause, param=param, code=code)


def _too_long(number: int, most_bytes: int) -> MotetError:
    return fail("too_large", f"Line {number} has over {most_bytes:,} bytes.", "Shorten it.", code="line_too_long")
