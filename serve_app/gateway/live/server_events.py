"""The events that the client of a live session gets, with OpenAI's names. `/asyncapi.json` describes them; each also has a
new `event_id` (`Outbox`)."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from deployments.settings import documented
from serve_app.gateway.errors import ErrorObject
from serve_app.gateway.live.items import FunctionCall, FunctionCallOutput, Message
from serve_app.gateway.transcript_answers import DurationUsage, SpokenLanguage, TokenLogprob

AnyItem = Message | FunctionCall | FunctionCallOutput


class LiveServerEvent(TypedDict):
    """What all events have."""

    event_id: str


@documented
class SessionObject(TypedDict):
    """The session as it is configured now: the fields of `session.update` with their values."""

    id: str
    object: Literal["realtime.session"]
    type: Literal["realtime", "transcription"]
    audio: dict[str, Any]
    include: list[str]
    model: NotRequired[str | None]
    instructions: NotRequired[str]
    output_modalities: NotRequired[list[str]]
    tools: NotRequired[list[dict[str, Any]]]
    tool_choice: NotRequired[str | dict[str, Any]]
    max_output_tokens: NotRequired[int | str]


class SessionCreated(LiveServerEvent):
    """The first event."""

    type: Literal["session.created"]
    session: SessionObject


class SessionUpdated(LiveServerEvent):
    """A `session.update` was accepted."""

    type: Literal["session.updated"]
    session: SessionObject


@documented
class EventErrorObject(ErrorObject):
    """What is wrong, and with which event of the client."""

    event_id: str | None
    """The `event_id` of the client's event, if it had one."""


class LiveError(LiveServerEvent):
    """An event of the client is wrong, and the session goes on; or the session failed, and is closed after this event."""

    type: Literal["error"]
    error: EventErrorObject


# --- Turns of the user


class SpeechStartedEvent(LiveServerEvent):
    """A turn begins. Times are in ms of the session's sound."""

    type: Literal["input_audio_buffer.speech_started"]
    audio_start_ms: int
    item_id: str


class SpeechStoppedEvent(LiveServerEvent):
    """A turn ends."""

    type: Literal["input_audio_buffer.speech_stopped"]
    audio_end_ms: int
    item_id: str


class InputCommitted(LiveServerEvent):
    """A turn is complete: it becomes an item."""

    type: Literal["input_audio_buffer.committed"]
    item_id: str
    previous_item_id: str | None


class InputCleared(LiveServerEvent):
    """The input buffer is empty."""

    type: Literal["input_audio_buffer.cleared"]


class InputTimeout(LiveServerEvent):
    """The user said nothing for `idle_timeout_ms`: the silence becomes a turn."""

    type: Literal["input_audio_buffer.timeout_triggered"]
    audio_start_ms: int
    audio_end_ms: int
    item_id: str


class OfTurn(LiveServerEvent):
    """What all events about the text of a turn have."""

    item_id: str
    content_index: int


class TurnTextDelta(OfTurn):
    """New words of a turn. They never change."""

    type: Literal["conversation.item.input_audio_transcription.delta"]
    delta: str


class TurnTextTentative(OfTurn):
    """All words after the deltas so far, which may change. Motet's own; only if `session.include` has it."""

    type: Literal["conversation.item.input_audio_transcription.tentative"]
    tentative: str


class TurnTextCompleted(OfTurn):
    """The text of a whole turn: all deltas together."""

    type: Literal["conversation.item.input_audio_transcription.completed"]
    transcript: str
    usage: DurationUsage
    logprobs: NotRequired[list[TokenLogprob]]
    languages: NotRequired[list[SpokenLanguage]]


class TurnTextFailed(OfTurn):
    """A turn could not be heard. The session goes on."""

    type: Literal["conversation.item.input_audio_transcription.failed"]
    error: ErrorObject


# --- The conversation


class ItemAdded(LiveServerEvent):
    """An item begins."""

    type: Literal["conversation.item.added"]
    previous_item_id: str | None
    item: AnyItem


class ItemDone(LiveServerEvent):
    """An item is complete."""

    type: Literal["conversation.item.done"]
    previous_item_id: str | None
    item: AnyItem


class ItemRetrieved(LiveServerEvent):
    """The answer to `conversation.item.retrieve`."""

    type: Literal["conversation.item.retrieved"]
    item: AnyItem


class ItemDeleted(LiveServerEvent):
    """An item was removed."""

    type: Literal["conversation.item.deleted"]
    item_id: str


class ItemTruncated(LiveServerEvent):
    """What a listener did not hear was removed from an answer."""

    type: Literal["conversation.item.truncated"]
    item_id: str
    content_index: int
    audio_end_ms: int


# --- Responses


class ResponseError(TypedDict):
    """Why a response failed."""

    type: str
    code: str | None
    message: str


class ResponseStatus(TypedDict):
    """How a response ended."""

    type: Literal["completed", "cancelled", "incomplete", "failed"]
    reason: NotRequired[str]
    error: NotRequired[ResponseError]


@documented
class ResponseObject(TypedDict):
    """A response."""

    id: str
    object: Literal["realtime.response"]
    status: Literal["in_progress", "completed", "cancelled", "incomplete", "failed"]
    status_details: ResponseStatus | None
    usage: dict[str, Any] | None
    """Tokens of text as the chat model counts them, and a token for each tenth of a second of sound."""
    output: list[AnyItem]
    output_modalities: list[str]
    audio: dict[str, Any]
    max_output_tokens: int | str
    conversation_id: str | None
    metadata: dict[str, str] | None


class ResponseCreated(LiveServerEvent):
    """A response begins."""

    type: Literal["response.created"]
    response: ResponseObject


class ResponseDone(LiveServerEvent):
    """A response ends."""

    type: Literal["response.done"]
    response: ResponseObject


class OfResponse(LiveServerEvent):
    """What all events of an item of a response have."""

    response_id: str
    output_index: int


class OutputItemAdded(OfResponse):
    """An item of a response begins."""

    type: Literal["response.output_item.added"]
    item: AnyItem


class OutputItemDone(OfResponse):
    """An item of a response is complete."""

    type: Literal["response.output_item.done"]
    item: AnyItem


class OfContent(OfResponse):
    """What all events of the content of a message have."""

    item_id: str
    content_index: int


class ContentPart(TypedDict):
    """A part of a message."""

    type: Literal["audio", "text"]
    transcript: NotRequired[str]
    text: NotRequired[str]


class ContentPartAdded(OfContent):
    """The content of a message begins."""

    type: Literal["response.content_part.added"]
    part: ContentPart


class ContentPartDone(OfContent):
    """The content of a message is complete."""

    type: Literal["response.content_part.done"]
    part: ContentPart


class OutputTextDelta(OfContent):
    """More text of a written answer."""

    type: Literal["response.output_text.delta"]
    delta: str


class OutputTextDone(OfContent):
    """The text of a written answer."""

    type: Literal["response.output_text.done"]
    text: str


class OutputTranscriptDelta(OfContent):
    """More text of a spoken answer."""

    type: Literal["response.output_audio_transcript.delta"]
    delta: str


class OutputTranscriptDone(OfContent):
    """The text of a spoken answer."""

    type: Literal["response.output_audio_transcript.done"]
    transcript: str


@documented
class OutputAudioDelta(OfContent):
    """More sound of a spoken answer."""

    type: Literal["response.output_audio.delta"]
    delta: str
    """The next bytes in base64, in the session's output format."""


class OutputAudioDone(OfContent):
    """The sound of a spoken answer is complete."""

    type: Literal["response.output_audio.done"]


class OfCall(OfResponse):
    """What all events of a function call have."""

    item_id: str
    call_id: str


class CallArgumentsDelta(OfCall):
    """More of the arguments of a function call, which are JSON."""

    type: Literal["response.function_call_arguments.delta"]
    delta: str


class CallArgumentsDone(OfCall):
    """The arguments of a function call. The client runs the function."""

    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str


SERVER_EVENTS: tuple[type[Any], ...] = (
    *(SessionCreated, SessionUpdated, LiveError),
    *(SpeechStartedEvent, SpeechStoppedEvent, InputCommitted, InputCleared, InputTimeout),
    *(TurnTextDelta, TurnTextTentative, TurnTextCompleted, TurnTextFailed),
    *(ItemAdded, ItemDone, ItemRetrieved, ItemDeleted, ItemTruncated),
    *(ResponseCreated, ResponseDone, OutputItemAdded, OutputItemDone, ContentPartAdded, ContentPartDone),
    *(OutputTextDelta, OutputTextDone, OutputTranscriptDelta, OutputTranscriptDone, OutputAudioDelta, OutputAudioDone),
    *(CallArgumentsDelta, CallArgumentsDone),
)
