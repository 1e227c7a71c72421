"""One live session: it reads the client's events, and sends what happens to its sound and its conversation."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from starlette.datastructures import Headers
from starlette.websockets import WebSocket, WebSocketDisconnect

from deployments.engines.protocols import RecognitionOptions, RecognitionTraits
from deployments.engines.recognition import check_options
from deployments.errors import Failure, MotetError, fail, quoted
from serve_app.gateway.bodies.json_messages import fields_of, message_of
from serve_app.gateway.live.answers import responder_of
from serve_app.gateway.live.conversation import Conversation, Emit
from serve_app.gateway.live.events import (
    EVENTS,
    MOST_VALUES,
    AnyEvent,
    AppendSound,
    CancelResponse,
    ClearOutput,
    ClearSound,
    CommitSound,
    CreateItem,
    CreateResponse,
    DeleteItem,
    RetrieveItem,
    SessionUpdate,
    TruncateItem,
    error_event,
    event_id_of,
    no_responses,
)
from serve_app.gateway.live.input_turns import Detect, InputTurns, Recognize
from serve_app.gateway.live.items import new_id
from serve_app.gateway.live.outbox import Outbox
from serve_app.gateway.live.response_fields import ResponseSettings
from serve_app.gateway.live.response_protocol import Responds
from serve_app.gateway.live.session_settings import (
    DELAY_S,
    LOGPROBS,
    TENTATIVE,
    SessionConfiguration,
    SessionSettings,
    TranscriptionHints,
)
from serve_app.gateway.live.spoken_turn import TurnOptions
from serve_app.gateway.live.turn_settings import ServerVad
from serve_app.gateway.request_context import current_request
from serve_app.gateway.service import Service
from serve_app.gateway.websockets import LAST_MESSAGE_S

ENDS_SESSION = ("overloaded", "too_large", "unavailable", "timeout", "engine")
"""Kinds of failure after which a session does not go on. After others the client gets an error event, and may go on."""
MOST_ERRORS = 32
"""Wrong events in a row. After that the session ends."""
USUAL_MODEL = "gpt-realtime"
"""The model of a conversation that names none."""
HINTS = "session.audio.input.transcription"


@dataclass(frozen=True, slots=True)
class SessionParts:
    """What opens the parts of a session. `admit` counts a session of a model while the context lasts, and raises
    `MotetError` (overloaded) if it would make all sessions late."""

    admit: Callable[[str], AbstractContextManager[None]]
    recognize: Recognize
    detect: Detect
    respond: Callable[[Service, Conversation, Emit, Headers], Responds]


class Session:
    """The session of one WebSocket, which is open. `named_model`: the address names a model, so it is checked at once."""

    def __init__(
        self,
        parts: SessionParts,
        service: Service,
        websocket: WebSocket,
        configuration: SessionConfiguration,
        named_model: bool,
    ) -> None:
        self.id = new_id("sess")
        self._parts = parts
        self._service = service
        self._limits = service.live.settings
        self._websocket = websocket
        self._configuration = configuration
        self._named_model = named_model
        self._outbox = Outbox(self._limits.max_unsent_bytes)
        self._conversation = Conversation(
            self._limits.max_items, self._limits.max_conversation_characters, self._outbox.emit
        )
        self._responses = parts.respond(service, self._conversation, self._outbox.emit, websocket.headers)
        self._tasks = asyncio.TaskGroup()
        emit, spawn = self._outbox.emit, self._tasks.create_task
        self._turns = InputTurns(parts.recognize, parts.detect, self._limits.max_buffered_s, emit, self, spawn)
        self._admission = ExitStack()
        self._admitted: list[str] = []
        """The model that the session was admitted for, as often as it hears each turn."""
        self._ready = False
        self._committed_at: dict[str, float] = {}
        self._spoke_at = -math.inf
        """When the client last began or ended a turn."""

    async def run(self) -> NoReturn:
        """Serves the client until it leaves. Raises what ends the session: `WebSocketDisconnect`, `MotetError`, or an
        exception that no code expects. Everything that the session holds is freed then."""
        try:
            async with self._tasks:
                self._tasks.create_task(self._send())
                self._tasks.create_task(self._watch_reader())
                self._tasks.create_task(self._end_in_time())
                self._outbox.emit({"type": "session.created", "session": self.settings.event(self.id)})
                if self._named_model:
                    await self._apply(self.settings)
                await self._receive()
        except BaseExceptionGroup as group:
            raise _reason(group) from None
        finally:
            current_request().seconds_of_audio = round(self._turns.seconds, 3)
            self._admission.close()  # before anything that waits, and may be cancelled
            await self._responses.close()
            await self._turns.close()

    async def end(self, failure: Failure, code: int) -> None:
        """Sends what waits and the failure, and closes the WebSocket."""
        self._outbox.emit_last(error_event(failure))
        try:
            async with asyncio.timeout(LAST_MESSAGE_S):
                while not self._outbox.empty:
                    await self._websocket.send_text(await self._outbox.next())
                await self._websocket.close(code)
        except (WebSocketDisconnect, TimeoutError, RuntimeError):
            pass  # the client left, or does not read

    @property
    def settings(self) -> SessionSettings:
        """What the session is configured with now."""
        return self._configuration.settings

    # --- What happens with turns: see `TurnOwner`

    def speech_started(self) -> None:
        """The client began to speak: a response stops, if the session wants that."""
        self._spoke_at = asyncio.get_running_loop().time()
        turns = self.settings.audio.input.turn_detection
        if self._converses and turns is not None and turns.interrupt_response:
            self._responses.cancel(reason="turn_detected")

    def turn_committed(self, item_id: str, *, detected: bool) -> None:
        """A turn is complete: it becomes an item, and if the session wants that, gets a response."""
        event = {"type": "input_audio_buffer.committed", "item_id": item_id}
        self._outbox.emit({**event, "previous_item_id": self._conversation.last_id})
        self._conversation.add_turn(item_id)
        self._committed_at[item_id] = self._spoke_at = asyncio.get_running_loop().time()
        turns = self.settings.audio.input.turn_detection
        answered = detected and turns is not None and turns.create_response and not self._responses.speaking
        if self._converses and answered:
            self._responses.create(self._response_settings())

    def turn_heard(self, item_id: str, transcript: str | None, english: str | None) -> None:
        """The text of a turn is complete."""
        self._conversation.heard(item_id, transcript, english)
        committed_at = self._committed_at.pop(item_id, None)
        if committed_at is not None and self._admitted:
            self._service.recorder.final_text(self._admitted[0], asyncio.get_running_loop().time() - committed_at)

    def _prompt_silent_user(self) -> None:
        """Responds once more if the user said nothing for `idle_timeout_ms` after the sound of a response."""
        turns, ended = self.settings.audio.input.turn_detection, self._responses.last
        if not (self._converses and isinstance(turns, ServerVad) and turns.idle_timeout_ms and ended):
            return
        silent_s = asyncio.get_running_loop().time() - ended.played_at
        said_something = self._turns.speaking or self._spoke_at > ended.done_at or self._responses.speaking
        if silent_s * 1000 >= turns.idle_timeout_ms and not said_something:
            self._turns.commit_silence(silent_s)
            self._responses.create(self._response_settings(), silent=True)

    # --- Tasks

    async def _send(self) -> NoReturn:
        while True:
            await self._websocket.send_text(await self._outbox.next())

    async def _watch_reader(self) -> NoReturn:
        raise await self._outbox.overflow()

    async def _end_in_time(self) -> NoReturn:
        await asyncio.sleep(self._limits.max_session_s)
        cause = f"The session is {self._limits.max_session_s:.0f} s old, the longest allowed."
        raise fail("timeout", cause, "Open another session.", code="session_expired")

    async def _receive(self) -> NoReturn:
        errors = 0
        while True:
            text = await self._next_message()
            fields: dict[str, Any] = {}
            try:
                fields = fields_of(text, self._limits.max_message_bytes, MOST_VALUES)
                await self._handle(message_of(fields, EVENTS, strict=self._service.settings.strict))
                errors = 0
            except MotetError as error:
                if error.failure.kind in ENDS_SESSION:
                    raise
                errors += 1
                self._outbox.emit(error_event(error.failure, event_id_of(fields)))
                if errors == MOST_ERRORS:
                    cause = f"{MOST_ERRORS} events in a row were wrong."
                    raise fail("invalid", cause, "Read the error events.", code="too_many_errors") from error
            await asyncio.sleep(0)  # a client that floods the queue must not keep others waiting

    async def _next_message(self) -> str:
        try:
            async with asyncio.timeout(self._limits.idle_s):
                received = await self._websocket.receive()
        except TimeoutError:
            cause = f"The client sent nothing for {self._limits.idle_s:.0f} s."
            raise fail("timeout", cause, "Open another session.", code="session_idle") from None
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(received["code"])
        return received.get("text") or (received.get("bytes") or b"").decode(errors="replace")

    # --- The client's events

    async def _handle(self, event: AnyEvent) -> None:
        match event:
            case AppendSound():
                data = event.data
                await self._make_ready()
                self._turns.append(data)
                self._prompt_silent_user()
            case SessionUpdate(session=update):
                await self._update(update)
            case CommitSound():
                await self._make_ready()
                self._turns.commit()
            case ClearSound():
                self._turns.clear()
            case RetrieveItem(item_id=item_id):
                self._conversation.retrieve(item_id)
            case DeleteItem(item_id=item_id):
                self._conversation.delete(item_id)
            case ClearOutput():
                cause = "output_audio_buffer.clear is for WebRTC."
                remedy = "Send response.cancel and conversation.item.truncate."
                raise fail("unsupported", cause, remedy, param="type", code="unsupported_event")
            case _ if not self._converses:
                raise no_responses(event)
            case _:
                await self._converse(event)

    async def _converse(self, event: AnyEvent) -> None:
        await self._make_ready()
        match event:
            case CreateItem(item=item, previous_item_id=previous):
                self._conversation.add(item, previous)
            case TruncateItem():
                self._conversation.truncate(event.item_id, event.content_index, event.audio_end_ms)
            case CreateResponse(response=params):
                self._responses.create(self._response_settings(), params)
            case CancelResponse(response_id=response_id):
                self._responses.cancel(response_id)

    async def _update(self, update: object) -> None:
        if not isinstance(update, dict):
            raise fail("invalid", "session is not an object.", "Send the session's fields.", param="session")
        proposed = self._configuration.proposed(update)
        self._check_change(proposed[1])
        await self._apply(proposed[1])
        self._configuration.accept(proposed)
        self._outbox.emit({"type": "session.updated", "session": self.settings.event(self.id)})

    def _check_change(self, settings: SessionSettings) -> None:
        old = self.settings
        if settings.type != old.type and self._ready:
            cause = f"This session is of type {old.type}, and has begun."
            raise fail("invalid", cause, "Open another session.", param="session.type", code="session_begun")
        if settings.model != old.model and old.model is not None and settings.type == "realtime":
            cause = f"The session's model is {quoted(old.model)}, and stays so."
            raise fail("invalid", cause, "Open another session.", param="session.model", code="cannot_update_model")
        if settings.type == "realtime" and settings.model is not None:
            responder_of(settings.model, self._limits)

    async def _make_ready(self) -> None:
        """Admits the session and opens its input, before the first event that needs them."""
        if not self._ready:
            await self._apply(self.settings)
        self._ready = True

    async def _apply(self, settings: SessionSettings) -> None:
        """Follows settings. Raises `MotetError`, with everything as before."""
        hearing, sound = await self._hearing(settings), settings.audio.input
        wanted = [hearing.model] * (2 if hearing.translated else 1) if hearing.model else []
        with self._admission_of(wanted) as admission:
            self._turns.configure(sound.format.type, sound.format.rate, sound.turn_detection, hearing)
            if wanted != self._admitted:
                self._admission.close()
                self._admission, self._admitted = admission.pop_all(), wanted

    def _admission_of(self, wanted: list[str]) -> ExitStack:
        """Admits the session for these models, unless it is already."""
        with ExitStack() as admission:
            for model in wanted if wanted != self._admitted else ():
                admission.enter_context(self._parts.admit(model))
            return admission.pop_all()

    async def _hearing(self, settings: SessionSettings) -> TurnOptions:
        hints, converses = settings.audio.input.transcription, settings.type == "realtime"
        if hints is None and not converses:
            return TurnOptions(None, RecognitionOptions(), reported=False)
        try:
            name, traits = await self._recognizer(hints)
            options = _options(hints or TranscriptionHints(), traits, log_probabilities=LOGPROBS in settings.include)
            check_options(options, traits, f"The model {quoted(name)}")
        except MotetError as error:
            param = error.failure.param
            raise MotetError(replace(error.failure, param=f"{HINTS}.{param}" if param else None)) from error
        if options.token_probabilities and not traits.token_probabilities:
            cause = f"The model {quoted(name)} cannot give log probabilities."
            raise fail("unsupported", cause, "Leave this out.", param="session.include")
        translated = converses and responder_of(settings.model or USUAL_MODEL, self._limits) == "translate"
        if translated and not traits.translates:
            cause, remedy = f"The model {quoted(name)} cannot translate.", "Configure a multilingual model."
            raise fail("unsupported", cause, remedy, param="session.model")
        return TurnOptions(
            name,
            options,
            reported=hints is not None,
            tentative=TENTATIVE in settings.include,
            translated=translated,
            delay_s=DELAY_S[hints.delay] if hints and hints.delay else 0.0,
        )

    async def _recognizer(self, hints: TranscriptionHints | None) -> tuple[str, RecognitionTraits]:
        """The name and the abilities of the model that hears the session."""
        directory = self._service.directory
        wanted = (hints.model if hints else None) or self._limits.transcription_model
        name = directory.resolve(wanted or directory.first("transcription"), "transcription")
        directory.ensure_answers_soon(name)
        traits: RecognitionTraits = await directory.traits(name)
        return name, traits

    @property
    def _converses(self) -> bool:
        return self.settings.type == "realtime"

    def _response_settings(self) -> ResponseSettings:
        settings, output = self.settings, self.settings.audio.output
        return ResponseSettings(
            model=settings.model or USUAL_MODEL,
            instructions=settings.instructions,
            modality=settings.output_modalities[0],
            voice=output.voice if isinstance(output.voice, str) else output.voice.id,
            speed=output.speed,
            output_format=output.format.type,
            tools=settings.tools,
            tool_choice=settings.tool_choice,
            max_output_tokens=None if settings.max_output_tokens == "inf" else settings.max_output_tokens,
        )


def _options(hints: TranscriptionHints, traits: RecognitionTraits, *, log_probabilities: bool) -> RecognitionOptions:
    return RecognitionOptions(
        language=hints.spoken_language,
        prompt=(hints.prompt or None) if traits.prompts else None,
        keywords=hints.keywords if traits.prompts else (),
        token_probabilities=log_probabilities,
    )


def _reason(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What ended a session: that the client left, if it did, or the first failure."""
    flat = list(_flattened(group))
    return next((error for error in flat if isinstance(error, WebSocketDisconnect)), flat[0])


def _flattened(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [each for inner in error.exceptions for each in _flattened(inner)]
    return [error]
