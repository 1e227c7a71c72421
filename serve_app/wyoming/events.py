"""Wyoming events on a stream of bytes, with bounds that the package `wyoming` does not have when it reads."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from wyoming.error import Error
from wyoming.event import Event, Eventable, async_write_event

from deployments.errors import Failure, MotetError, fail, in_one_line, quoted
from deployments.json_text import from_json_text

EventT = TypeVar("EventT", bound=Eventable)

MAX_DATA_BYTES = 64 * 1024
"""The most bytes of an event's data. Clients send sound as payload, and text in short parts."""
MAX_PAYLOAD_BYTES = 1024 * 1024
"""The most bytes of an event's payload: 30 s of sound at 16 kHz. Clients send less than a second at once."""


async def read_event(reader: asyncio.StreamReader) -> Event | None:
    """The next event, or None if the client has disconnected.

    Raises `MotetError`: (invalid) for what is not an event, (too_large) for one over the bounds.
    """
    try:
        line = await reader.readline()
        if not line:
            return None
        header = _object(line)
        data = _object(await reader.readexactly(_length(header, "data_length", MAX_DATA_BYTES)) or b"{}")
        payload = await reader.readexactly(_length(header, "payload_length", MAX_PAYLOAD_BYTES))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    except ValueError as error:  # `readline` raises it for a line over the reader's limit
        cause = f"An event cannot be read: {in_one_line(error)}."
        raise fail("invalid", cause, "Send events of the Wyoming protocol.", code="event_invalid") from error
    kind, own = header.get("type"), header.get("data") or {}
    if not isinstance(kind, str) or not isinstance(own, dict):
        cause = f"An event has the type {quoted(str(kind))}."
        raise fail("invalid", cause, "Send a type and an object of data.", code="event_invalid")
    return Event(kind, own | data, payload or None)


async def write_event(event: Event, writer: asyncio.StreamWriter, limit_s: float) -> None:
    """Sends an event. Raises ConnectionError if the client is gone, or takes nothing for `limit_s`."""
    try:
        async with asyncio.timeout(limit_s):
            await async_write_event(event, writer)
    except TimeoutError as error:
        raise ConnectionError(f"The client took nothing for {limit_s:g} s.") from error


def parsed(kind: type[EventT], event: Event) -> EventT:
    """An event as `kind`, which the package does not check. Raises `MotetError` (invalid) for fields of wrong types."""
    try:
        checked: EventT = _checker(kind).validate_python(event.data | {"audio": event.payload or b""})
    except ValidationError as error:
        first = error.errors()[0]
        cause = f"{event.type}: {'.'.join(map(str, first['loc']))}: {first['msg']}."
        raise fail("invalid", cause, "Send the fields of the Wyoming protocol.", code="event_invalid") from error
    return checked


@cache
def _checker(kind: type[EventT]) -> TypeAdapter[EventT]:
    return TypeAdapter(kind)


def error_event(failure: Failure) -> Event:
    """A failure with its remedy, as Wyoming's error."""
    return Error(failure.message, failure.code or failure.kind).event()


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = from_json_text(text.decode())
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("a JSON object was expected")
    return value


def _length(header: dict[str, Any], name: str, most: int) -> int:
    length = header.get(name) or 0
    if not isinstance(length, int) or length < 0:
        raise ValueError(f"{name} is {length!r}")
    if length > most:
        raise too_large(f"An event's {name} is {length:,}. At most {most:,} are accepted.")
    return length


def too_large(cause: str) -> MotetError:
    """The error for events over the bounds."""
    return fail("too_large", cause, "Send it in smaller events.", code="event_too_large")
