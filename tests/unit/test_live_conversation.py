"""The items of a live conversation, what a chat model reads of them, and what was heard of an answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deployments.errors import MotetError
from serve_app.gateway.live.conversation import Conversation
from serve_app.gateway.live.items import Content, FunctionCall, FunctionCallOutput, Message
from serve_app.gateway.live.spoken_text import SpokenText
from tests.unit.live_events import Events


def conversation(max_items: int = 100, max_characters: int = 10_000) -> tuple[Conversation, Events]:
    events = Events()
    return Conversation(max_items, max_characters, events.emit), events


def said(words: str, role: Any = "user", item_id: str | None = None) -> Message:
    kind: Any = "output_text" if role == "assistant" else "input_text"
    return Message(id=item_id, role=role, content=(Content(type=kind, text=words),))


def test_items_have_their_places() -> None:
    items, events = conversation()
    items.add(said("One.", item_id="a"))
    items.add(said("Three.", item_id="c"))
    items.add(said("Two.", item_id="b"), "a")
    items.add(said("Zero.", item_id="z"), "root")
    assert [message["content"] for message in items.messages()] == ["Zero.", "One.", "Two.", "Three."]
    assert [event["previous_item_id"] for event in events.of("conversation.item.added")] == [None, "a", "a", None]
    assert events.kinds == ["conversation.item.added", "conversation.item.done"] * 4
    assert items.last_id == "c"


def test_wrong_items_are_refused() -> None:
    items, events = conversation()
    items.add(said("One.", item_id="a"))
    for item, previous in (
        (said("Twice.", item_id="a"), None),
        (said("After nothing."), "unknown"),
        (Message(role="user", content=(Content(type="input_audio"),)), None),
        (FunctionCallOutput(call_id="never_called", output="3"), None),
    ):
        with pytest.raises(MotetError):
            items.add(item, previous)
    with pytest.raises(MotetError):
        items.delete("b")
    with pytest.raises(MotetError):
        items.retrieve("b")
    with pytest.raises(MotetError):
        items.truncate("a", 0, 0)
    assert len(events) == 2


def test_items_are_shown_and_deleted() -> None:
    items, events = conversation()
    items.add(said("One.", item_id="a"))
    items.retrieve("a")
    assert events[-1]["item"]["content"] == [{"type": "input_text", "text": "One."}]
    items.delete("a")
    assert events[-1] == {"type": "conversation.item.deleted", "item_id": "a"}
    assert items.messages() == []
    assert items.last_id is None


@pytest.mark.parametrize(("max_items", "max_characters"), [(3, 1000), (100, 12)])
def test_the_oldest_items_are_forgotten(max_items: int, max_characters: int) -> None:
    items, _ = conversation(max_items, max_characters)
    for number in range(10):
        items.add(said(f"No {number}"))
    assert [message["content"] for message in items.messages()] == ["No 7", "No 8", "No 9"]


def test_the_newest_item_is_kept_however_long_it_is() -> None:
    items, _ = conversation(max_characters=5)
    items.add(said("a long message"))
    assert len(items.messages()) == 1


def call(call_id: str) -> FunctionCall:
    return FunctionCall(call_id=call_id, name="add", arguments='{"a": 1}')


def test_function_calls_stand_before_their_outputs() -> None:
    items, _ = conversation()
    items.add(said("Add."))
    for item in (call("c1"), call("c2"), said("And?"), call("unanswered")):
        items.add(item)
    items.add(FunctionCallOutput(call_id="c1", output="3"))
    items.add(FunctionCallOutput(call_id="c2", output="4"))
    messages = items.messages()
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "user"]
    function = {"name": "add", "arguments": '{"a": 1}'}
    assert messages[1]["tool_calls"] == [
        {"id": name, "type": "function", "function": function} for name in ("c1", "c2")
    ]
    assert [(m["tool_call_id"], m["content"]) for m in messages[2:4]] == [("c1", "3"), ("c2", "4")]


def test_an_output_whose_call_was_forgotten_is_left_out() -> None:
    items, _ = conversation(max_items=2)
    items.add(call("c1"))
    items.add(FunctionCallOutput(call_id="c1", output="3"))
    items.add(said("So?"))
    assert [message["role"] for message in items.messages()] == ["user"]


def test_a_call_is_answered_once() -> None:
    items, _ = conversation()
    items.add(call("c1"))
    with pytest.raises(MotetError, match="without an output has the id"):
        items.add(call("c1"))
    items.add(FunctionCallOutput(call_id="c1", output="3"))
    with pytest.raises(MotetError, match="No function call before this item has the id .* and no output"):
        items.add(FunctionCallOutput(call_id="c1", output="4"))
    items.add(said("And?"))
    items.add(call("c1"))
    items.add(FunctionCallOutput(call_id="c1", output="5"))
    answers = [message["content"] for message in items.messages() if message["role"] == "tool"]
    assert answers == ["3", "5"]


def test_an_output_does_not_answer_two_calls() -> None:
    items, _ = conversation()
    items.add(call("c1"))
    items.add(FunctionCallOutput(call_id="c1", output="3"))
    items.add(call("c1"))
    assert [message["role"] for message in items.messages()] == ["assistant", "tool"]
    assert len(items.messages()[0]["tool_calls"]) == 1
    with pytest.raises(MotetError, match="without an output has the id"):
        items.add(call("c1"), "root")


def test_an_answered_call_gets_no_earlier_output() -> None:
    items, _ = conversation()
    first = items.add(call("c1"))
    items.add(FunctionCallOutput(call_id="c1", output="3"))
    with pytest.raises(MotetError, match="No function call before this item"):
        items.add(FunctionCallOutput(call_id="c1", output="4"), first.id)


def test_calls_with_one_id_are_in_messages_of_their_own() -> None:
    items, _ = conversation()
    for answer in ("3", "4"):
        items.add(call("c1"))
        items.add(FunctionCallOutput(call_id="c1", output=answer))
    messages = items.messages()
    assert [message["role"] for message in messages] == ["assistant", "tool", "assistant", "tool"]
    assert [message["content"] for message in messages[1::2]] == ["3", "4"]


async def test_turns_are_awaited() -> None:
    items, _ = conversation()
    items.add_turn("a")
    items.add_turn("b")
    waiting = asyncio.create_task(items.all_heard())
    items.heard("a", "Hello.", english="Hi.")
    await asyncio.sleep(0)
    assert not waiting.done()
    items.heard("b", None)
    await waiting
    assert not items.is_unanswerable, "the first turn waits for an answer"
    assert items.messages() == [{"role": "user", "content": "Hello."}]
    items.add_turn("c")
    waiting = asyncio.create_task(items.all_heard())
    await asyncio.sleep(0)
    items.delete("c")
    await waiting


def spoken(*pieces: tuple[str, float], sent_ms: float, over: bool = True) -> SpokenText:
    text = SpokenText(sent_ms=sent_ms, over=over)
    for piece, start_ms in pieces:
        text.begin(piece, start_ms)
    return text


@pytest.mark.parametrize(
    ("end_ms", "heard"),
    [
        (0, ""),
        (100, ""),
        (700, "One two"),
        (1000, "One two three."),
        (1400, "One two three. Four"),
        (2000, "One two three. Four five."),
        (9000, "One two three. Four five."),
    ],
)
def test_only_whole_words_were_heard(end_ms: float, heard: str) -> None:
    text = spoken(("One two three.", 0), ("Four five.", 1000), sent_ms=2000)
    assert text.until(end_ms) == heard


def test_the_length_of_a_piece_is_predicted_until_it_was_sent() -> None:
    text = spoken(("One two three four five six seven eight nine.", 0), sent_ms=1000, over=False)
    assert text.heard == "One two three"  # a third of the 3 s that 45 characters take
    text.over, text.sent_ms = True, 3000.0
    assert text.heard.endswith("nine.")


def test_pieces_of_chinese_are_joined_without_spaces() -> None:
    text = SpokenText()
    assert text.begin("你好。", 0) + text.begin("再见。", 500) == "你好。再见。"


def answered(items: Conversation, sent_ms: float, over: bool) -> None:
    text = spoken(("One two three.", 0), ("Four five.", 1000), sent_ms=sent_ms, over=over)
    items.begin(Message(id="x", role="assistant", content=(), status="in_progress"), text)
    content = (Content(type="output_audio", transcript="One two three. Four five."),)
    items.complete(Message(id="x", role="assistant", content=content))


def test_what_was_not_heard_is_cut() -> None:
    items, events = conversation()
    answered(items, 2000, over=True)
    items.truncate("x", 0, 1400)
    assert items.messages() == [{"role": "assistant", "content": "One two three. Four"}]
    assert events[-1]["type"] == "conversation.item.truncated"
    items.truncate("x", 0, 1900)
    assert items.messages()[0]["content"].endswith("Four"), "what was cut does not come back"
    for index, end_ms in ((1, 500), (0, 2500), (0, -1)):
        with pytest.raises(MotetError):
            items.truncate("x", index, end_ms)


def test_what_was_not_sent_is_not_remembered() -> None:
    items, events = conversation()
    answered(items, 1100, over=False)
    assert items.messages() == [{"role": "assistant", "content": "One two three."}]
    assert events[-1]["item"]["content"][0]["transcript"] == "One two three. Four five."
