"""JSON messages of WebSockets: size and structure are checked before a message is parsed, and its `type` names its schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from deployments.errors import clipped, fail
from deployments.json_text import from_json_text
from serve_app.gateway.bodies.json_bodies import MAX_VALUES, check_structure
from serve_app.gateway.errors import validated
from serve_app.gateway.fields import RequestFields

MessageT = TypeVar("MessageT", bound=RequestFields)


def fields_of(text: str, most_bytes: int, most_values: int = MAX_VALUES) -> dict[str, Any]:
    """The fields of a message of at most `most_bytes` in UTF-8, with at most `most_values` keys, values and brackets. Raises
    `MotetError`: (too_large), (invalid)."""
    if len(text) > most_bytes or len(encoded := text.encode(errors="replace")) > most_bytes:
        cause = f"The message is over {most_bytes:,} bytes."
        raise fail("too_large", cause, "Send it in parts.", code="message_too_large")
    check_structure(encoded, most_values)
    try:
        fields = from_json_text(text)
    except (ValueError, RecursionError) as error:
        cause = f"The message is not valid JSON: {error}."
        raise fail("invalid", cause, "Send a JSON object.", code="json_invalid") from error
    if not isinstance(fields, dict):
        raise fail("invalid", "The message is not a JSON object.", "Send an object with a type.", code="json_invalid")
    return fields


def message_of(fields: Mapping[str, Any], kinds: Mapping[str, type[MessageT]], *, strict: bool) -> MessageT:
    """The message with these fields, of one of these kinds. Raises `MotetError` (invalid) that names what is wrong."""
    kind = fields.get("type")
    if not (isinstance(kind, str) and kind in kinds):
        cause, remedy = f"The message's type is {clipped(repr(kind))}.", f"Types: {', '.join(kinds)}."
        raise fail("invalid", cause, remedy, param="type", code="unknown_type")
    return validated(kinds[kind], fields, strict=strict)
