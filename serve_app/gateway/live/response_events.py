"""The events of one response, in OpenAI's order, from `response.created` to `response.done`."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deployments.errors import Failure
from serve_app.gateway.errors import STATUS
from serve_app.gateway.live.conversation import Conversation, Emit
from serve_app.gateway.live.items import Content, FunctionCall, Item, ItemStatus, Message, item_json, new_id
from serve_app.gateway.live.response_fields import Modality
from serve_app.gateway.live.spoken_text import SpokenText

EndStatus = Literal["completed", "cancelled", "incomplete", "failed"]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a response ended, and why."""

    status: EndStatus
    reason: str | None = None
    failure: Failure | None = None

    @property
    def details(self) -> dict[str, Any] | None:
        """`status_details` of the response."""
        if self.failure is not None:
            kind, code = STATUS[self.failure.kind][1], self.failure.code
            return {"type": self.status, "error": {"type": kind, "code": code, "message": self.failure.message}}
        return {"type": self.status, "reason": self.reason} if self.reason else None


@dataclass(slots=True)
class ResponseUsage:
    """What a response took: tokens of text as the chat model counts them, and the seconds of sound."""

    input_tokens: int = 0
    output_tokens: int = 0
    audio_seconds: float = 0.0

    @property
    def facts(self) -> dict[str, Any]:
        """OpenAI's fields. Speech models here have no tokens: a tenth of a second counts as one."""
        audio = round(self.audio_seconds * 10)
        return {
            "total_tokens": self.input_tokens + self.output_tokens + audio,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens + audio,
            "input_token_details": {"text_tokens": self.input_tokens, "audio_tokens": 0, "cached_tokens": 0},
            "output_token_details": {"text_tokens": self.output_tokens, "audio_tokens": audio},
        }


class ResponseEvents:
    """Emits the events of one response. After its end it emits nothing.

    The items of the response are added to the `conversation`, if there is one. `facts` are fields of the response that do not
    change.
    """

    def __init__(self, emit: Emit, conversation: Conversation | None, facts: Mapping[str, Any]) -> None:
        self.id = new_id("resp")
        self.usage = ResponseUsage()
        self.ended = False
        self._emit = emit
        self._conversation = conversation
        self._facts = facts
        self._outputs: list[MessageEvents | CallEvents] = []

    def create(self) -> None:
        """The response begins."""
        self.emit("response.created", response=self._response("in_progress"))

    def open_message(self, modality: Modality, spoken: SpokenText | None = None) -> MessageEvents:
        """Begins a message. `spoken` says when its words are spoken."""
        message = MessageEvents(self, len(self._outputs), modality, spoken)
        self._outputs.append(message)
        return message

    def open_call(self, call_id: str, name: str) -> CallEvents:
        """Begins a function call. Some chat models give several calls one id, or none: then it gets a new one, since a client
        answers a call by its id."""
        used = self._conversation.call_ids() if self._conversation else set()
        used |= {output.item.call_id for output in self._outputs if isinstance(output, CallEvents)}
        free_id = call_id if call_id and call_id not in used else new_id("call")
        call = CallEvents(self, len(self._outputs), free_id, name)
        self._outputs.append(call)
        return call

    def end(self, ending: Ending) -> None:
        """Ends the open items and the response. A later call has no effect."""
        if self.ended:
            return
        for output in self._outputs:
            output.finish("completed" if ending.status == "completed" else "incomplete")
        done = self._response(ending.status, [output.item for output in self._outputs])
        done |= {"status_details": ending.details, "usage": self.usage.facts}
        self.emit("response.done", response=done)
        self.ended = True

    def emit(self, kind: str, **fields: Any) -> None:
        """Emits an event of this response."""
        if not self.ended:
            self._emit({"type": kind, **fields})

    def add_item(self, item: Item, index: int, spoken: SpokenText | None = None) -> None:
        """An item of the response begins. A task of a response that was cancelled may still come here once."""
        if self.ended:
            return
        self.emit("response.output_item.added", response_id=self.id, output_index=index, item=item_json(item))
        if self._conversation:
            self._conversation.begin(item, spoken)

    def complete_item(self, item: Item, index: int) -> None:
        """An item of the response is complete."""
        if self.ended:
            return
        if self._conversation:
            self._conversation.complete(item)
        self.emit("response.output_item.done", response_id=self.id, output_index=index, item=item_json(item))

    def _response(self, status: str, output: Sequence[Item] = ()) -> dict[str, Any]:
        facts = {"id": self.id, "object": "realtime.response", "status": status, "status_details": None, "usage": None}
        return {**facts, "output": [item_json(item) for item in output], **self._facts}


class MessageEvents:
    """The events of one message of a response: its words, and its sound if it is spoken."""

    def __init__(self, response: ResponseEvents, index: int, modality: Modality, spoken: SpokenText | None) -> None:
        self._response = response
        self._index = index
        self._modality = modality
        self._words = ""
        self._finished = False
        self.item = Message(id=new_id("item"), role="assistant", content=(), status="in_progress")
        response.add_item(self.item, index, spoken)
        self._emit("response.content_part.added", part=self._part)

    def write(self, words: str) -> None:
        """More words."""
        self._words += words
        self._emit(f"response.{self._words_name}.delta", delta=words)

    def sound(self, data: bytes) -> None:
        """More sound, in the format of the response."""
        self._emit("response.output_audio.delta", delta=base64.b64encode(data).decode())

    def finish(self, status: ItemStatus) -> None:
        """The message ends. A later call has no effect."""
        if self._finished:
            return
        self._finished = True
        if self._modality == "audio":
            self._emit("response.output_audio.done")
            self._emit("response.output_audio_transcript.done", transcript=self._words)
            content = Content(type="output_audio", transcript=self._words)
        else:
            self._emit("response.output_text.done", text=self._words)
            content = Content(type="output_text", text=self._words)
        self._emit("response.content_part.done", part=self._part)
        self.item = self.item.model_copy(update={"content": (content,), "status": status})
        self._response.complete_item(self.item, self._index)

    @property
    def _words_name(self) -> str:
        return "output_audio_transcript" if self._modality == "audio" else "output_text"

    @property
    def _part(self) -> dict[str, str]:
        return {"type": self._modality, "transcript" if self._modality == "audio" else "text": self._words}

    def _emit(self, kind: str, **fields: Any) -> None:
        place = {"item_id": self.item.id, "output_index": self._index, "content_index": 0}
        self._response.emit(kind, response_id=self._response.id, **place, **fields)


class CallEvents:
    """The events of one function call of a response."""

    def __init__(self, response: ResponseEvents, index: int, call_id: str, name: str) -> None:
        self._response = response
        self._index = index
        self._arguments = ""
        self._finished = False
        self.item = FunctionCall(id=new_id("item"), call_id=call_id, name=name, arguments="", status="in_progress")
        response.add_item(self.item, index)

    def write(self, arguments: str) -> None:
        """More of the arguments, which are JSON."""
        if arguments:
            self._arguments += arguments
            self._emit("response.function_call_arguments.delta", delta=arguments)

    def finish(self, status: ItemStatus) -> None:
        """The call ends. A later call has no effect."""
        if self._finished:
            return
        self._finished = True
        if status == "completed" and not self._arguments.strip():
            self.write("{}")  # some models send nothing for a function without arguments, and clients read JSON
        self._emit("response.function_call_arguments.done", name=self.item.name, arguments=self._arguments)
        self.item = self.item.model_copy(update={"arguments": self._arguments, "status": status})
        self._response.complete_item(self.item, self._index)

    def _emit(self, kind: str, **fields: Any) -> None:
        place = {"item_id": self.item.id, "output_index": self._index, "call_id": self.item.call_id}
        self._response.emit(kind, response_id=self._response.id, **place, **fields)
