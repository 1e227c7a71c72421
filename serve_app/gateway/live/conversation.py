"""The conversation of a live session: its items in order, and what a chat model gets to read of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.errors import MotetError, fail, quoted
from serve_app.gateway.live.items import (
    Content,
    FunctionCall,
    FunctionCallOutput,
    Item,
    Message,
    item_json,
    new_id,
)
from serve_app.gateway.live.spoken_text import SpokenText

Emit = Callable[[Mapping[str, Any]], None]
"""Sends an event to the client."""

AnsweredCall = tuple[FunctionCall, FunctionCallOutput]

FIRST = "root"
"""As `previous_item_id`: before all items."""


@dataclass(slots=True)
class Entry:
    """An item, and what only the service knows about it."""

    item: Item
    spoken: SpokenText | None = None
    """When which words of an answer were spoken."""
    english: str | None = None
    """What a turn of the user means in English, if that was asked for."""
    awaited: bool = False
    """Whether the turn is still being transcribed."""


class Conversation:
    """The items of one session. It emits the events about them.

    It holds at most `max_items` with at most `max_characters` together, and forgets the oldest. All methods but `heard` raise
    `MotetError`: (invalid) for what does not fit the items, (not_found) for an unknown item.
    """

    def __init__(self, max_items: int, max_characters: int, emit: Emit) -> None:
        self.id = new_id("conv")
        self._max_items = max_items
        self._max_characters = max_characters
        self._emit = emit
        self._entries: list[Entry] = []
        self._heard = asyncio.Event()

    @property
    def last_id(self) -> str | None:
        """The id of the last item."""
        return self._entries[-1].item.id if self._entries else None

    @property
    def last_turn(self) -> Entry | None:
        """The last message of the user that has words."""
        turns = (entry for entry in reversed(self._entries) if _is_turn(entry.item) and not _is_silent(entry.item))
        return next(turns, None)

    @property
    def is_unanswerable(self) -> bool:
        """Whether the last item is a turn in which nothing was said, and nothing that the user said before it waits for an
        answer. A noise may have stopped an answer before its first word."""
        items = [entry.item for entry in reversed(self._entries)]
        if not items or not (_is_turn(items[0]) and _is_silent(items[0])):
            return False
        before = next((item for item in items if not _is_silent(item)), None)
        return before is None or not _is_turn(before)

    def add(self, item: Item, previous_item_id: str | None = None) -> Item:
        """Adds an item of the client after another one, or at the end. Returns it with its id."""
        if isinstance(item, Message):
            _check_words(item)
        added = self._insert(Entry(item), previous_item_id)
        self._emit({"type": "conversation.item.done", **self._shown(added)})
        return added

    def add_turn(self, item_id: str) -> None:
        """Adds a turn that the user spoke. Its transcript follows with `heard`."""
        turn = Message(id=item_id, role="user", content=(Content(type="input_audio"),))
        self._insert(Entry(turn, awaited=True), None)
        self._emit({"type": "conversation.item.done", **self._shown(turn)})

    def begin(self, item: Item, spoken: SpokenText | None = None) -> None:
        """Adds an item that a response begins."""
        self._insert(Entry(item, spoken), None)

    def complete(self, item: Item) -> None:
        """Stores the item of a response as it is at its end. Of an item that was spoken, the text that was sent is kept."""
        if entry := self._find(item.id):
            entry.item = item
            self._emit({"type": "conversation.item.done", **self._shown(item)})
            if entry.spoken:
                entry.item = _with_transcript(item, entry.spoken.heard)

    def heard(self, item_id: str, transcript: str | None, english: str | None = None) -> None:
        """The transcript of a turn is complete. None: it could not be transcribed."""
        if entry := self._find(item_id):
            entry.item = _with_transcript(entry.item, transcript or "")
            entry.english = english
            entry.awaited = False
        self._heard.set()

    async def all_heard(self) -> None:
        """Waits until no turn is being transcribed."""
        while any(entry.awaited for entry in self._entries):
            self._heard.clear()
            await self._heard.wait()

    def retrieve(self, item_id: str) -> None:
        """Shows an item."""
        self._emit({"type": "conversation.item.retrieved", "item": item_json(self._entry(item_id).item)})

    def delete(self, item_id: str) -> None:
        """Removes an item."""
        self._entries.remove(self._entry(item_id))
        self._heard.set()
        self._emit({"type": "conversation.item.deleted", "item_id": item_id})

    def truncate(self, item_id: str, content_index: int, audio_end_ms: int) -> None:
        """Removes from an answer the words whose sound the listener did not hear, because it ended after `audio_end_ms`."""
        entry = self._entry(item_id)
        if entry.spoken is None or content_index != 0:
            cause = f"Content {content_index} of the item {quoted(item_id)} has no sound of an answer."
            raise fail("invalid", cause, "Truncate content 0 of a spoken answer.", param="item_id")
        if not 0 <= audio_end_ms <= round(entry.spoken.sent_ms) + 1:
            cause = f"The sound of the answer has {entry.spoken.sent_ms:.0f} ms, not {audio_end_ms}."
            raise fail("invalid", cause, "Send how much of it was played.", param="audio_end_ms", code="invalid_value")
        entry.spoken.heard_ms = min(entry.spoken.heard_ms, audio_end_ms)
        entry.item = _with_transcript(entry.item, entry.spoken.heard)
        event = {"item_id": item_id, "content_index": content_index, "audio_end_ms": audio_end_ms}
        self._emit({"type": "conversation.item.truncated", **event})

    def call_ids(self) -> set[str]:
        """The ids of function calls and of their outputs."""
        items = (entry.item for entry in self._entries)
        return {item.call_id for item in items if isinstance(item, FunctionCall | FunctionCallOutput)}

    def items(self, ids: Sequence[str]) -> list[Item]:
        """The items with these ids."""
        return [self._entry(item_id).item for item_id in ids]

    def messages(self) -> list[dict[str, Any]]:
        """The conversation as the chat model gets it."""
        return chat_messages([entry.item for entry in self._entries])

    def _insert(self, entry: Entry, previous_item_id: str | None) -> Item:
        item = entry.item
        if item.id is None:
            item = entry.item = item.model_copy(update={"id": new_id("item")})
        assert item.id is not None
        if self._find(item.id):
            raise fail("invalid", f"There is an item {quoted(item.id)} already.", "Send another id.", param="item.id")
        at = self._place_after(previous_item_id)
        self._check_call(item, at)
        self._entries.insert(at, entry)
        self._emit({"type": "conversation.item.added", **self._shown(item)})
        self._forget()
        return item

    def _place_after(self, previous_item_id: str | None) -> int:
        if previous_item_id is None:
            return len(self._entries)
        return 0 if previous_item_id == FIRST else self._entries.index(self._entry(previous_item_id)) + 1

    def _check_call(self, item: Item, at: int) -> None:
        """Each call is answered once: an id may be used again when the call that had it has its output."""
        if isinstance(item, Message):
            return
        entries = [entry.item for entry in self._entries]
        before, answered = answered_calls(entries), answered_calls([*entries[:at], item, *entries[at:]])
        if isinstance(item, FunctionCall):
            waiting = (each for place, each in enumerate(entries) if place + (place >= at) not in answered)
            if any(isinstance(each, FunctionCall) and each.call_id == item.call_id for each in waiting):
                cause = f"A function call without an output has the id {quoted(item.call_id)} already."
                raise fail("invalid", cause, "Send another call_id.", param="item.call_id")
        elif at not in (output for call, output in answered.items() if call not in before):
            cause = f"No function call before this item has the id {quoted(item.call_id)} and no output."
            raise fail("invalid", cause, "Send the call_id of such a call.", param="item.call_id")

    def _forget(self) -> None:
        size = sum(entry.item.size for entry in self._entries)
        while len(self._entries) > 1 and (len(self._entries) > self._max_items or size > self._max_characters):
            size -= self._entries.pop(0).item.size
            self._heard.set()

    def _shown(self, item: Item) -> dict[str, Any]:
        ids = [entry.item.id for entry in self._entries]
        at = ids.index(item.id) if item.id in ids else 0
        return {"previous_item_id": ids[at - 1] if at else None, "item": item_json(item)}

    def _find(self, item_id: str | None) -> Entry | None:
        return next((entry for entry in self._entries if entry.item.id == item_id), None)

    def _entry(self, item_id: str) -> Entry:
        if entry := self._find(item_id):
            return entry
        raise _unknown_item(item_id)


def chat_messages(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Items as messages of `/chat/completions`.

    Chat models want the outputs of functions right after their calls, and refuse calls without outputs. Such calls are left
    out, and so are outputs whose calls were forgotten. The ids of the calls of one message differ.
    """
    answered = answered_calls(items)
    messages: list[dict[str, Any]] = []
    calls: list[AnsweredCall] = []
    for place, item in enumerate(items):
        if isinstance(item, FunctionCall):
            output = items[answered[place]] if place in answered else None
            if any(call.call_id == item.call_id for call, _ in calls):
                _add_calls(messages, calls)
                calls = []
            calls += [(item, output)] if isinstance(output, FunctionCallOutput) else []
        elif isinstance(item, Message) and item.words.strip():
            _add_calls(messages, calls)
            messages.append({"role": item.role, "content": item.words})
            calls = []
    _add_calls(messages, calls)
    return messages


def answered_calls(items: Sequence[Item]) -> dict[int, int]:
    """The places of the function calls that have an output, each with the place of its output. An output answers the first
    call before it with its id that has none."""
    waiting: dict[str, list[int]] = {}
    found: dict[int, int] = {}
    for place, item in enumerate(items):
        if isinstance(item, FunctionCall):
            waiting.setdefault(item.call_id, []).append(place)
        elif isinstance(item, FunctionCallOutput) and waiting.get(item.call_id):
            found[waiting[item.call_id].pop(0)] = place
    return found


def _add_calls(messages: list[dict[str, Any]], calls: Sequence[AnsweredCall]) -> None:
    """Adds function calls that were made together, and their outputs. Words before the calls are in the same message, as the
    model wrote them: some chat models refuse two messages of one role in a row."""
    if not calls:
        return
    said = messages.pop()["content"] if _ends_with_words(messages) else None
    made = [
        {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call, _ in calls
    ]
    answers = [{"role": "tool", "tool_call_id": call.call_id, "content": output.output} for call, output in calls]
    messages += [{"role": "assistant", "content": said, "tool_calls": made}, *answers]


def _ends_with_words(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last message is one of the model, without calls."""
    return bool(messages) and messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1]


def _is_turn(item: Item) -> bool:
    return isinstance(item, Message) and item.role == "user"


def _is_silent(item: Item) -> bool:
    """Whether an item is a message without words."""
    return isinstance(item, Message) and not item.words.strip()


def _check_words(item: Message) -> None:
    if not all(part.words for part in item.content) or not item.content:
        cause = "A part of the message has neither text nor transcript."
        remedy = "Send text; send sound with input_audio_buffer.append."
        raise fail("unsupported", cause, remedy, param="item.content")


def _with_transcript(item: Item, transcript: str) -> Item:
    assert isinstance(item, Message)
    parts = [part.model_copy(update={"transcript": transcript}) for part in item.content]
    return item.model_copy(update={"content": tuple(parts)})


def _unknown_item(item_id: str) -> MotetError:
    cause, remedy = f"The conversation has no item {quoted(item_id)}.", "Send the id of one of its items."
    return fail("not_found", cause, remedy, param="item_id", code="item_not_found")
