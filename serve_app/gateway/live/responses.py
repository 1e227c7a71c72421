"""The responses of one live session, at most one at a time: a turn is answered, and the answer spoken while it is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from deployments.errors import MotetError, fail
from deployments.text.segmentation import has_words
from deployments.tracing.spans import within
from serve_app.gateway.errors import log_failure, log_unexpected
from serve_app.gateway.live.answers import ResponseInput, answer_to, input_of, prompting, responder_of
from serve_app.gateway.live.chat import ChatModel
from serve_app.gateway.live.chat_stream import AnswerEnd, AnswerPart, CallPart, TextPart
from serve_app.gateway.live.conversation import Conversation, Emit
from serve_app.gateway.live.response_events import CallEvents, Ending, MessageEvents, ResponseEvents
from serve_app.gateway.live.response_fields import CancelReason, Modality, ResponseParams, ResponseSettings
from serve_app.gateway.live.response_protocol import EndedResponse
from serve_app.gateway.live.settings import RealtimeSettings
from serve_app.gateway.live.spoken_text import SpokenPart, SpokenText

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer is incomplete, by the chat model's `finish_reason`."""


class AnswerVoice(Protocol):
    """Speaks one answer while it is written (`SpokenAnswer`)."""

    spoken: SpokenText

    def write(self, text: str) -> None:
        """More of the text, in Markdown."""

    def end(self) -> None:
        """The text ends."""

    async def has_words(self) -> bool:
        """Waits for words to speak. False if the text ended without any."""

    def parts(self) -> AsyncGenerator[SpokenPart]:
        """The words and their sound. Raises `MotetError`."""

    def close(self) -> None:
        """Frees what it holds. Safe to call twice."""


@dataclass(slots=True)
class Response:
    """One response in progress."""

    events: ResponseEvents
    settings: ResponseSettings
    params: ResponseParams | None
    silent: bool = False
    """Whether it prompts a user who says nothing."""
    sound_at: float = 0.0
    """When its first sound was sent, on the event loop's clock."""
    task: asyncio.Task[None] | None = None


class Responses:
    """Makes the responses of a session. `begin_voice` chooses a voice for each that is spoken; it raises `MotetError`."""

    def __init__(
        self,
        settings: RealtimeSettings,
        chat: ChatModel | None,
        conversation: Conversation,
        emit: Emit,
        begin_voice: Callable[[ResponseSettings], Awaitable[AnswerVoice]],
    ) -> None:
        self._settings = settings
        self._chat = chat
        self._conversation = conversation
        self._emit = emit
        self._begin_voice = begin_voice
        self._current: Response | None = None
        self.last: EndedResponse | None = None
        """The last response that ended."""
        self._tasks: set[asyncio.Task[None]] = set()
        """Of the response in progress, and of those that are being closed."""

    @property
    def speaking(self) -> bool:
        """Whether there is a response in progress."""
        return self._current is not None

    def create(self, settings: ResponseSettings, params: ResponseParams | None = None, *, silent: bool = False) -> None:
        """Begins a response. It waits by itself until all turns are transcribed. `silent`: the user says nothing, and is to
        be prompted. Emits its events up to `response.done`, which also reports failures. Raises `MotetError` (invalid) while
        another one is in progress."""
        if self._current is not None:
            cause = f"The response {self._current.events.id} is in progress."
            remedy = "Wait for response.done, or send response.cancel."
            raise fail("invalid", cause, remedy, code="conversation_already_has_active_response")
        settings = settings.changed(params)
        conversation = None if params is not None and params.conversation == "none" else self._conversation
        facts = {
            "conversation_id": conversation and conversation.id,
            "metadata": params.metadata if params else None,
            **settings.facts,
        }
        response = Response(ResponseEvents(self._emit, conversation, facts), settings, params, silent)
        response.events.create()
        self._current = response
        response.task = asyncio.create_task(self._run(response))
        self._tasks.add(response.task)
        response.task.add_done_callback(self._tasks.discard)

    def cancel(self, response_id: str | None = None, reason: CancelReason = "client_cancelled") -> None:
        """Ends the response in progress. At once it emits its last events and makes no further sound; what it holds is freed
        by its task. Raises `MotetError` (invalid) if the client cancels and no such response is in progress."""
        current = self._current
        if current is None or (response_id is not None and response_id != current.events.id):
            if reason == "client_cancelled":
                cause = "This response is not in progress."
                raise fail("invalid", cause, "Responses that ended need no cancel.", code="response_cancel_not_active")
            return
        self._end(current, Ending("cancelled", reason))
        if current.task:
            current.task.cancel()

    async def close(self) -> None:
        """Ends everything, without further events."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _end(self, response: Response, ending: Ending) -> None:
        response.events.end(ending)
        if self._current is response:
            self._current, now = None, asyncio.get_running_loop().time()
            heard_out = response.sound_at + response.events.usage.audio_seconds
            self.last = EndedResponse(now, now if ending.status == "cancelled" else max(now, heard_out))

    async def _run(self, response: Response) -> None:
        try:
            with within("response"):
                ending = await self._answered(response)
            self._end(response, ending)
        except MotetError as error:
            log_failure(error.failure)
            self._end(response, Ending("failed", failure=error.failure))
        except Exception as error:
            self._end(response, Ending("failed", failure=log_unexpected(error)))

    async def _answered(self, response: Response) -> Ending:
        if response.settings.modality == "text":
            asked = await self._input(response)
            message = AnswerMessage(response.events, "text")
            return await self._write(response, asked, message) if asked else Ending("completed")
        voice = await self._begin_voice(response.settings)
        try:
            asked = await self._input(response)
            if asked is None:
                return Ending("completed")
            message = AnswerMessage(response.events, "audio", voice.spoken)
            return await _together(self._write(response, asked, message, voice), self._speak(response, message, voice))
        finally:
            voice.close()

    async def _input(self, response: Response) -> ResponseInput | None:
        """What the response answers. None if the user said nothing."""
        params = response.params
        if params is not None and params.input is not None:
            return input_of(self._conversation, params)
        await self._conversation.all_heard()
        if not self._conversation.is_unanswerable:
            return input_of(self._conversation, params)
        return prompting(self._conversation) if response.silent else None

    def _parts(self, settings: ResponseSettings, asked: ResponseInput) -> AsyncGenerator[AnswerPart]:
        responder = responder_of(settings.model, self._settings)
        return answer_to(asked, settings, responder, self._chat)

    async def _write(
        self, response: Response, asked: ResponseInput, message: AnswerMessage, voice: AnswerVoice | None = None
    ) -> Ending:
        """Reads what the chat model writes. Text is spoken by the `voice`, or sent if there is none."""
        written = WrittenParts(response.events, message, voice)
        async with aclosing(self._parts(response.settings, asked)) as parts:
            async for part in parts:
                if isinstance(part, AnswerEnd):
                    return written.end(part)
                written.take(part)
        return Ending("completed")

    async def _speak(self, response: Response, opening: AnswerMessage, voice: AnswerVoice) -> None:
        if not await voice.has_words():
            return
        message = opening.begin()
        async with aclosing(voice.parts()) as parts:
            async for part in parts:
                if part.words:
                    message.write(part.words)
                if part.sound:
                    response.sound_at = response.sound_at or asyncio.get_running_loop().time()
                    message.sound(part.sound)
                response.events.usage.audio_seconds = voice.spoken.sent_ms / 1000


class AnswerMessage:
    """The message of a response, which begins when it is first needed. `spoken` says when its words are spoken."""

    def __init__(self, events: ResponseEvents, modality: Modality, spoken: SpokenText | None = None) -> None:
        self._events = events
        self._modality = modality
        self._spoken = spoken
        self._message: MessageEvents | None = None

    def begin(self) -> MessageEvents:
        """The message, which is in the response from the first call on."""
        self._message = self._message or self._events.open_message(self._modality, self._spoken)
        return self._message


class WrittenParts:
    """Passes on the parts of an answer: text to the voice or to a message, and function calls to the client."""

    def __init__(self, events: ResponseEvents, message: AnswerMessage, voice: AnswerVoice | None) -> None:
        self._events = events
        self._message = message
        self._voice = voice
        self._has_words = False
        """Whether there is something to speak."""
        self._calls: dict[int, CallEvents] = {}

    def take(self, part: TextPart | CallPart) -> None:
        """The next part."""
        if isinstance(part, CallPart):
            self._call(part).write(part.arguments)
        elif self._voice:
            self._voice.write(part.text)
            self._has_words = self._has_words or has_words(part.text)
        else:
            self._message.begin().write(part.text)

    def end(self, end: AnswerEnd) -> Ending:
        """The answer ends. Returns how the response ends."""
        self._events.usage.input_tokens = end.input_tokens
        self._events.usage.output_tokens = end.output_tokens
        reason = INCOMPLETE.get(end.reason)
        if self._voice:
            self._voice.end()
        for call in self._calls.values():
            call.finish("incomplete" if reason else "completed")
        return Ending("incomplete", reason) if reason else Ending("completed")

    def _call(self, part: CallPart) -> CallEvents:
        if part.index not in self._calls:
            for earlier in self._calls.values():
                earlier.finish("completed")
            if self._has_words:
                # The voice begins later, and chat models refuse to answer what stands after the output of a function.
                self._message.begin()
            self._calls[part.index] = self._events.open_call(part.call_id, part.name)
        return self._calls[part.index]


async def _together(writing: Coroutine[Any, Any, Ending], speaking: Coroutine[Any, Any, None]) -> Ending:
    """Runs both to their ends and returns what the first one does. When either fails, the other is cancelled."""
    first, second = asyncio.create_task(writing), asyncio.create_task(speaking)
    try:
        await asyncio.wait((first, second), return_when=asyncio.FIRST_EXCEPTION)
        for task in (first, second):
            if task.done():
                task.result()
        return first.result()
    finally:
        for task in (first, second):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
