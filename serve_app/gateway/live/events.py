"""The events that a client of a live session sends, with OpenAI's names, and how they are read."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from deployments.errors import Failure, MotetError, clipped, fail
from serve_app.gateway.errors import error_fields
from serve_app.gateway.fields import RequestFields
from serve_app.gateway.live.items import Item, ItemId
from serve_app.gateway.live.response_fields import ResponseParams

MOST_VALUES = 8192
"""The most keys, values and brackets of an event: a session may have many tools."""


class ClientEvent(RequestFields):
    """What all events have. An error about an event has its `event_id`."""

    event_id: Annotated[str, StringConstraints(max_length=512)] | None = None


class SessionUpdate(ClientEvent):
    """Changes the fields of the session that it names."""

    type: Literal["session.update"]
    session: Mapping[str, Any]


class AppendSound(ClientEvent):
    """More sound, in base64."""

    type: Literal["input_audio_buffer.append"]
    audio: str

    @property
    def data(self) -> bytes:
        """The sound in the session's encoding. Raises `MotetError` (invalid)."""
        try:
            return base64.b64decode(self.audio, validate=True)
        except (binascii.Error, ValueError) as error:
            cause = f"The audio is not valid base64: {error}."
            raise fail("invalid", cause, "Send the bytes in base64.", param="audio", code="invalid_base64") from error


class CommitSound(ClientEvent):
    """The turn in the input buffer is complete."""

    type: Literal["input_audio_buffer.commit"]


class ClearSound(ClientEvent):
    """The sound in the input buffer is not meant."""

    type: Literal["input_audio_buffer.clear"]


class ClearOutput(ClientEvent):
    """For WebRTC only: there the service knows what was played."""

    type: Literal["output_audio_buffer.clear"]


class CreateItem(ClientEvent):
    """Adds an item to the conversation."""

    type: Literal["conversation.item.create"]
    item: Item
    previous_item_id: ItemId | None = None


class RetrieveItem(ClientEvent):
    """Shows an item."""

    type: Literal["conversation.item.retrieve"]
    item_id: ItemId


class DeleteItem(ClientEvent):
    """Removes an item."""

    type: Literal["conversation.item.delete"]
    item_id: ItemId


class TruncateItem(ClientEvent):
    """The client played only the beginning of an answer."""

    type: Literal["conversation.item.truncate"]
    item_id: ItemId
    content_index: int
    audio_end_ms: int


class CreateResponse(ClientEvent):
    """Asks for a response."""

    type: Literal["response.create"]
    response: ResponseParams | None = None


class CancelResponse(ClientEvent):
    """Stops a response."""

    type: Literal["response.cancel"]
    response_id: ItemId | None = None


AnyEvent = (
    SessionUpdate
    | AppendSound
    | CommitSound
    | ClearSound
    | ClearOutput
    | CreateItem
    | RetrieveItem
    | DeleteItem
    | TruncateItem
    | CreateResponse
    | CancelResponse
)
EVENTS: Mapping[str, type[AnyEvent]] = {
    "session.update": SessionUpdate,
    "input_audio_buffer.append": AppendSound,
    "input_audio_buffer.commit": CommitSound,
    "input_audio_buffer.clear": ClearSound,
    "output_audio_buffer.clear": ClearOutput,
    "conversation.item.create": CreateItem,
    "conversation.item.retrieve": RetrieveItem,
    "conversation.item.delete": DeleteItem,
    "conversation.item.truncate": TruncateItem,
    "response.create": CreateResponse,
    "response.cancel": CancelResponse,
}


def event_id_of(fields: Mapping[str, Any]) -> str | None:
    """The id that the client gave an event, whatever else is wrong with it."""
    event_id = fields.get("event_id")
    return clipped(event_id) if isinstance(event_id, str) else None


def error_event(failure: Failure, event_id: str | None = None) -> dict[str, Any]:
    """The event that says what failed, and because of which event of the client."""
    return {"type": "error", "error": {**error_fields(failure), "event_id": event_id}}


def no_responses(event: AnyEvent) -> MotetError:
    """The error of an event that needs a conversation."""
    cause = f"A session of type transcription does not take {event.type}."
    return fail("unsupported", cause, "Open a session of type realtime.", param="type", code="not_a_conversation")
