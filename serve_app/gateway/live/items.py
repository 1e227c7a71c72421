"""The items of a conversation: messages, function calls and the outputs of functions. OpenAI names the fields."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from serve_app.gateway.fields import RequestFields

ItemId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
ItemStatus = Literal["completed", "incomplete", "in_progress"]


class NestedFields(RequestFields):
    """An object within an event. Fields that nothing here uses are ignored, because OpenAI adds some now and then."""

    model_config = ConfigDict(extra="ignore")


class Content(NestedFields):
    """A part of a message. Sound has a `transcript`, and is not kept here."""

    type: Literal["input_text", "input_audio", "output_text", "output_audio"]
    text: str | None = None
    transcript: str | None = None

    @property
    def words(self) -> str:
        """What was written or said."""
        return self.text or self.transcript or ""


class _ItemFields(NestedFields):
    id: ItemId | None = None
    object: Literal["realtime.item"] = "realtime.item"
    status: ItemStatus = "completed"

    @property
    def size(self) -> int:
        """Characters of text."""
        return 0


class Message(_ItemFields):
    """What a user, the assistant or the system says."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system"]
    content: tuple[Content, ...]

    @property
    def words(self) -> str:
        """What was written or said, in all parts."""
        return " ".join(words for part in self.content if (words := part.words))

    @property
    def size(self) -> int:
        """Characters of text."""
        return sum(len(part.text or "") + len(part.transcript or "") for part in self.content)


class FunctionCall(_ItemFields):
    """A function that the chat model calls. The client runs it."""

    type: Literal["function_call"] = "function_call"
    call_id: ItemId = Field(default_factory=lambda: new_id("call"))
    name: Annotated[str, StringConstraints(max_length=256)]
    arguments: str

    @property
    def size(self) -> int:
        """Characters of text."""
        return len(self.arguments)


class FunctionCallOutput(_ItemFields):
    """What a function returned."""

    type: Literal["function_call_output"] = "function_call_output"
    call_id: ItemId
    output: str

    @property
    def size(self) -> int:
        """Characters of text."""
        return len(self.output)


Item = Annotated[Message | FunctionCall | FunctionCallOutput, Field(discriminator="type")]


def new_id(kind: str) -> str:
    """A new id such as `item_5f0c...`."""
    return f"{kind}_{uuid.uuid4().hex[:24]}"


def item_json(item: Item) -> dict[str, Any]:
    """An item as events show it."""
    return item.model_dump(mode="json", exclude_none=True)
