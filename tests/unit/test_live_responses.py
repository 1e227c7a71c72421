"""Responses of live conversations over a stand-in chat model and a voice of tones. No Ray, no network; the clock jumps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from starlette.datastructures import Headers

from deployments.audio import g711
from deployments.errors import MotetError, fail
from deployments.replica.wire import PackedChunk, unpack
from serve_app.gateway.live.answers import SILENCE, responder_of
from serve_app.gateway.live.chat import ChatRequest
from serve_app.gateway.live.chat_stream import AnswerEnd, AnswerPart, CallPart, TextPart
from serve_app.gateway.live.conversation import Conversation
from serve_app.gateway.live.items import Content, FunctionCallOutput, Message
from serve_app.gateway.live.response_fields import ResponseParams, ResponseSettings, Tool
from serve_app.gateway.live.responses import Responses
from serve_app.gateway.live.settings import ChatSettings, RealtimeSettings
from serve_app.gateway.live.spoken_answer import SpokenAnswer
from tests.unit import test_speech_stream
from tests.unit.fakes import RATE, ToneSynthesizer, tone
from tests.unit.jumping_clock import now, run
from tests.unit.live_events import Events
from tests.unit.test_api import Bench

FIRST, SECOND = "It rained all day.", "We stayed inside and slept."
SETTINGS = ResponseSettings("gpt-realtime")
TEXT = ResponseSettings("gpt-realtime", modality="text")
CHAT = {"chat": {"base_url": "http://chat.example/v1", "model": "small"}}
Script = AnswerPart | Exception | float


class Chat:
    """A chat model that answers with the same parts each time; a number is a pause in seconds."""

    instructions = "Be brief."

    def __init__(self, *script: Script) -> None:
        self.script = script
        self.requests: list[ChatRequest] = []
        self.open = 0

    async def answer(self, request: ChatRequest) -> AsyncGenerator[AnswerPart]:
        self.requests.append(request)
        self.open += 1
        try:
            for part in self.script:
                if isinstance(part, Exception):
                    raise part
                if isinstance(part, float):
                    await asyncio.sleep(part)
                else:
                    yield part
        finally:
            self.open -= 1


class SlowSynthesizer(ToneSynthesizer):
    """Makes a chunk of sound every tenth of a second, and notes how much it made."""

    def __init__(self) -> None:
        super().__init__()
        self.made_seconds = 0.0

    async def speak(self, request: Any) -> AsyncGenerator[PackedChunk]:
        async for chunk in super().speak(request):
            await asyncio.sleep(0.1)
            self.made_seconds += unpack(chunk).seconds
            yield chunk


class Talk:
    """A conversation with its responses, and the events that its client gets."""

    def __init__(self, *script: Script, synthesizer: ToneSynthesizer | None = None, **realtime: Any) -> None:
        self.bench = Bench(synthesizer or ToneSynthesizer(), realtime={**CHAT, **realtime})
        self.chat = Chat(*script)
        self.events = Events()
        self.done = asyncio.Event()
        self.conversation = Conversation(100, 10_000, self.emit)
        begin_voice = partial(SpokenAnswer.begin, self.bench.service, Headers({}), now)
        settings = self.bench.service.live.settings
        self.responses = Responses(settings, self.chat, self.conversation, self.emit, begin_voice)

    def emit(self, event: Mapping[str, Any]) -> None:
        self.events.emit(event)
        if event["type"] == "response.done":
            self.done.set()

    def say(self, words: str) -> None:
        self.conversation.add(Message(role="user", content=(Content(type="input_text", text=words),)))

    async def respond(self, settings: ResponseSettings = SETTINGS, params: ResponseParams | None = None) -> Events:
        """The events of one response."""
        before = len(self.events)
        self.responses.create(settings, params)
        await self.until_done()
        return Events(self.events[before:])

    async def until_done(self) -> None:
        await self.done.wait()
        self.done.clear()
        await asyncio.sleep(0.01)
        await self.responses.close()


def in_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    return lambda: run(test)


def heard(sound: bytes) -> Any:
    return np.frombuffer(sound, "<i2").astype(np.float32) / 32768


SPOKEN = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_audio_transcript.delta",
    "response.output_audio.delta",
    "response.output_audio_transcript.delta",
    "response.output_audio.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
]


@in_time
async def test_an_answer_is_spoken() -> None:
    talk = Talk(TextPart("It **rained** all day. We stayed"), TextPart(" inside and slept."), AnswerEnd("stop", 9, 4))
    talk.say("How was it?")
    events = await talk.respond()
    assert events.kinds == SPOKEN
    assert [event["delta"] for event in events.of("response.output_audio_transcript.delta")] == [FIRST, f" {SECOND}"]
    item = events.done["output"][0]
    assert item["content"] == [{"type": "output_audio", "transcript": f"{FIRST} {SECOND}"}]
    assert (events.done["status"], item["status"], item["role"]) == ("completed", "completed", "assistant")
    seconds = (len(tone(FIRST)) + len(tone(SECOND))) / RATE
    assert len(events.sound) / 2 / 24_000 == pytest.approx(seconds, abs=0.001)
    usage = events.done["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (9, 4 + round(seconds * 10))
    system, user = talk.chat.requests[0].messages
    assert (system, user) == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How was it?"},
    )
    assert talk.conversation.messages()[-1] == {"role": "assistant", "content": f"{FIRST} {SECOND}"}


@in_time
async def test_the_first_sentence_is_spoken_while_the_next_one_is_written() -> None:
    talk = Talk(TextPart(f"{FIRST} We stayed inside an"), 5.0, TextPart("d slept."), AnswerEnd("stop"))
    talk.say("How was it?")
    talk.responses.create(SETTINGS)
    await asyncio.sleep(0.5)
    assert len(talk.events.sound) > 24_000 * 2 * 0.1
    await talk.until_done()
    assert talk.events.done["status"] == "completed"


@pytest.mark.parametrize(("output_format", "law"), [("audio/pcmu", "mu"), ("audio/pcma", "a")])
def test_telephones_get_g711(output_format: Any, law: g711.Law) -> None:
    async def test() -> None:
        talk = Talk(TextPart(FIRST), AnswerEnd("stop"))
        talk.say("Hm?")
        events = await talk.respond(ResponseSettings("gpt-realtime", output_format=output_format))
        np.testing.assert_allclose(g711.decode(events.sound, law) / 32768, tone(FIRST), atol=0.02)
        assert events.done["audio"]["output"]["format"] == {"type": output_format}

    run(test)


@in_time
async def test_an_answer_in_text() -> None:
    talk = Talk(TextPart("- *One*\n"), TextPart("- two"), AnswerEnd("stop"))
    talk.say("List.")
    events = await talk.respond(TEXT)
    assert events.kinds == [
        *("response.created", "response.output_item.added", "conversation.item.added", "response.content_part.added"),
        *("response.output_text.delta", "response.output_text.done", "response.content_part.done"),
        *("conversation.item.done", "response.output_item.done", "response.done"),
    ]
    assert events.done["output"][0]["content"] == [{"type": "output_text", "text": "- *One*\n- two"}]
    assert not talk.bench.handle.calls or all(name != "speak" for name, _ in talk.bench.handle.calls)


@in_time
async def test_function_calls_are_passed_through_and_their_outputs_come_back() -> None:
    calls = (CallPart(0, "c0", "add", '{"a"'), CallPart(0, "c0", "", ": 1}"), CallPart(1, "", "now", ""))
    talk = Talk(*calls, AnswerEnd("tool_calls"))
    talk.say("Add.")
    tool = Tool(name="add", description="Adds.", parameters={"type": "object"})
    events = await talk.respond(ResponseSettings("gpt-realtime", tools=[tool], tool_choice="required"))
    request = talk.chat.requests[0]
    function = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}
    assert (request.tools, request.tool_choice) == ([{"type": "function", "function": function}], "required")
    done = events.of("response.function_call_arguments.done")
    assert [(event["name"], event["arguments"]) for event in done] == [("add", '{"a": 1}'), ("now", "{}")]
    first, second = events.done["output"]
    assert (first["call_id"], first["arguments"], first["status"]) == ("c0", '{"a": 1}', "completed")
    assert second["call_id"].startswith("call_")
    assert "response.output_audio.delta" not in events.kinds
    talk.conversation.add(FunctionCallOutput(call_id="c0", output="3"))
    talk.chat.script = (TextPart("It is three."), AnswerEnd("stop"))
    events = await talk.respond()
    assert [message["role"] for message in talk.chat.requests[1].messages] == ["system", "user", "assistant", "tool"]
    assert events.done["output"][0]["content"][0]["transcript"] == "It is three."


@in_time
async def test_calls_with_one_id_are_answered_each() -> None:
    """Of one answer, and of a later one: some chat models begin to count again in each."""
    talk = Talk(CallPart(0, "c0", "add", "{}"), CallPart(1, "c0", "now", "{}"), AnswerEnd("tool_calls"))
    talk.say("Add.")
    first = (await talk.respond()).done["output"]
    talk.chat.script = (CallPart(0, "c0", "late", "{}"), AnswerEnd("tool_calls"))
    second = (await talk.respond()).done["output"]
    ids = [item["call_id"] for item in (*first, *second)]
    assert (ids[0], len(set(ids))) == ("c0", 3)
    for id, output in zip(ids, ("3", "noon", "yes"), strict=True):
        talk.conversation.add(FunctionCallOutput(call_id=id, output=output))
    talk.chat.script = (TextPart("Three at noon."), AnswerEnd("stop"))
    await talk.respond()
    messages = talk.chat.requests[-1].messages
    made = [call for message in messages for call in message.get("tool_calls", ())]
    assert [(call["id"], call["function"]["name"]) for call in made] == list(
        zip(ids, ("add", "now", "late"), strict=True)
    )
    answers = [(m["tool_call_id"], m["content"]) for m in messages if m["role"] == "tool"]
    assert answers == list(zip(ids, ("3", "noon", "yes"), strict=True))


@in_time
async def test_calls_with_one_id_are_told_apart_outside_the_conversation() -> None:
    talk = Talk(CallPart(0, "c0", "add", "{}"), CallPart(1, "c0", "now", "{}"), AnswerEnd("tool_calls"))
    talk.say("Add.")
    events = await talk.respond(TEXT, ResponseParams(conversation="none"))
    first, second = events.done["output"]
    assert (first["call_id"], second["call_id"].startswith("call_")) == ("c0", True)


@in_time
async def test_a_response_waits_for_the_transcript_of_a_turn() -> None:
    talk = Talk(TextPart(FIRST), AnswerEnd("stop"))
    talk.conversation.add_turn("turn")
    talk.responses.create(SETTINGS)
    await asyncio.sleep(5)
    assert talk.events.kinds[-1] == "response.created" and not talk.chat.requests
    talk.conversation.heard("turn", "How was it?")
    await talk.until_done()
    assert talk.chat.requests[0].messages[-1]["content"] == "How was it?"


@pytest.mark.parametrize("transcript", ["", "  ", None])
def test_a_turn_without_words_is_not_answered(transcript: str | None) -> None:
    async def test() -> None:
        talk = Talk(TextPart(FIRST), AnswerEnd("stop"))
        talk.conversation.add_turn("turn")
        talk.conversation.heard("turn", transcript)
        events = await talk.respond()
        assert events.kinds == ["response.created", "response.done"]
        assert (events.done["status"], events.done["output"], talk.chat.requests) == ("completed", [], [])

    run(test)


@in_time
async def test_a_user_who_says_nothing_is_prompted() -> None:
    talk = Talk(TextPart(FIRST), AnswerEnd("stop"))
    talk.say("How was it?")
    await talk.respond()
    ended = talk.responses.last
    assert ended is not None
    assert ended.played_at >= ended.done_at
    talk.conversation.add_turn("silence")
    talk.conversation.heard("silence", "")
    talk.responses.create(SETTINGS, silent=True)
    await talk.until_done()
    assert [message["role"] for message in talk.chat.requests[-1].messages] == ["system", "user", "assistant", "user"]
    assert talk.chat.requests[-1].messages[-1]["content"] == SILENCE
    assert talk.events.done["status"] == "completed" and talk.events.done["output"]


@in_time
async def test_an_interruption_ends_the_voice_at_once() -> None:
    synthesizer = SlowSynthesizer()
    sentences = " ".join(f"This is sentence number {number} of a long answer." for number in range(50))
    talk = Talk(TextPart(sentences), 1000.0, synthesizer=synthesizer)
    talk.say("Tell me a story.")
    talk.responses.create(SETTINGS)
    await asyncio.sleep(3)
    before, made = len(talk.events), synthesizer.made_seconds
    talk.responses.cancel(reason="turn_detected")
    assert not talk.responses.speaking
    last = Events(talk.events[before:])
    assert last.kinds == SPOKEN[-6:]
    await asyncio.sleep(10)
    assert Events(talk.events[before:]) == last, "nothing follows the end of a response"
    assert (last.done["status"], last.done["status_details"]["reason"]) == ("cancelled", "turn_detected")
    assert last.done["output"][0]["status"] == "incomplete"
    assert synthesizer.made_seconds == made, "no sound is made in vain"
    assert talk.chat.open == 0, "the chat model's answer is closed"
    sent_seconds = len(talk.events.sound) / 2 / 24_000
    assert made - sent_seconds < 1.0
    assert sent_seconds < 3 + 2.0, "at most twice the look-ahead is sent ahead of the listener"
    transcript = last.of("response.output_audio_transcript.done")[0]["transcript"]
    remembered = talk.conversation.messages()[-1]["content"]
    assert transcript.startswith(remembered) and len(remembered) == pytest.approx(sent_seconds * 100, abs=60)


@in_time
async def test_a_new_response_follows_an_interrupted_one_at_once() -> None:
    talk = Talk(TextPart(f"{FIRST} {SECOND}"), 1000.0, synthesizer=SlowSynthesizer())
    talk.say("Go on.")
    talk.responses.create(SETTINGS)
    await asyncio.sleep(0.3)
    talk.responses.cancel(talk.events[-1].get("response_id"))
    talk.done.clear()
    talk.chat.script = (TextPart("Yes, of course."), AnswerEnd("stop"))
    events = await talk.respond()
    assert events.done["output"][0]["content"][0]["transcript"] == "Yes, of course."


@in_time
async def test_there_is_one_response_at_a_time() -> None:
    talk = Talk(TextPart(FIRST), AnswerEnd("stop"))
    talk.responses.cancel(reason="turn_detected")
    with pytest.raises(MotetError) as raised:
        talk.responses.cancel()
    assert raised.value.failure.code == "response_cancel_not_active"
    talk.say("One?")
    talk.responses.create(SETTINGS)
    with pytest.raises(MotetError) as raised:
        talk.responses.create(SETTINGS)
    assert raised.value.failure.code == "conversation_already_has_active_response"
    with pytest.raises(MotetError):
        talk.responses.cancel("resp_of_another")
    await talk.until_done()
    assert talk.events.done["status"] == "completed"


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_an_answer_may_be_incomplete(reason: str) -> None:
    async def test() -> None:
        talk = Talk(TextPart(FIRST), AnswerEnd(reason))
        talk.say("One?")
        events = await talk.respond()
        assert events.done["status"] == "incomplete"
        assert events.done["status_details"]["reason"] in ("max_output_tokens", "content_filter")
        assert len(events.sound) > 0

    run(test)


@pytest.mark.parametrize("before", [(), (TextPart(f"{FIRST} {SECOND}"), 1.0)])
@pytest.mark.parametrize("settings", [SETTINGS, TEXT])
def test_a_failing_chat_model_fails_the_response_only(before: tuple[Script, ...], settings: ResponseSettings) -> None:
    async def test() -> None:
        talk = Talk(*before, fail("unavailable", "It broke.", "Repair it.", code="chat_unavailable"))
        talk.say("One?")
        events = await talk.respond(settings)
        error = {"type": "service_unavailable", "code": "chat_unavailable", "message": "It broke. Repair it."}
        assert events.done["status"] == "failed"
        assert events.done["status_details"]["error"] == error
        talk.chat.script = (TextPart(FIRST), AnswerEnd("stop"))
        assert (await talk.respond(settings)).done["status"] == "completed"

    run(test)


@in_time
async def test_a_failing_voice_fails_the_response_and_closes_the_chat_model() -> None:
    talk = Talk(TextPart(f"{FIRST} {SECOND} "), 1000.0, synthesizer=ToneSynthesizer(failing_at=0))
    talk.say("One?")
    events = await talk.respond()
    assert events.done["status"] == "failed"
    assert "error" in events.done["status_details"]
    assert (talk.chat.open, now() < 10) == (0, True)


@in_time
async def test_an_unknown_voice_fails_the_response() -> None:
    talk = Talk(TextPart(FIRST), AnswerEnd("stop"))
    talk.say("One?")
    events = await talk.respond(ResponseSettings("gpt-realtime", voice="nobody"))
    assert events.done["status_details"]["error"]["code"] == "voice_not_found"


@pytest.mark.parametrize("text", ["", "  \n", "**", "..."])
def test_an_answer_without_words_has_no_items(text: str) -> None:
    async def test() -> None:
        talk = Talk(*([TextPart(text)] if text else []), AnswerEnd("stop"))
        talk.say("One?")
        events = await talk.respond()
        assert (events.kinds, events.done["status"]) == (["response.created", "response.done"], "completed")

    run(test)


@in_time
async def test_echo_and_translate_need_no_chat_model() -> None:
    talk = Talk()
    talk.conversation.add_turn("turn")
    talk.conversation.heard("turn", "Es regnet heute.", english="It rains today.")
    echo = await talk.respond(ResponseSettings("echo"))
    assert echo.done["output"][0]["content"][0]["transcript"] == "Es regnet heute."
    translated = await talk.respond(ResponseSettings("translate", modality="text"))
    assert translated.done["output"][0]["content"][0]["text"] == "It rains today."
    assert not talk.chat.requests


def test_names_of_conversation_models() -> None:
    chat = RealtimeSettings(chat=ChatSettings(base_url="http://chat.example", model="small"))
    without = RealtimeSettings(without_chat="translate")
    for name in ("gpt-realtime", "gpt-realtime-2025-08-28", "gpt-4o-mini-realtime-preview", "gpt-realtime-mini"):
        assert (responder_of(name, chat), responder_of(name, without)) == ("chat", "translate")
    assert [responder_of(name, chat) for name in ("echo", "translate", "small")] == ["echo", "translate", "chat"]
    with pytest.raises(MotetError):
        responder_of("small", without)


@in_time
async def test_a_response_may_stand_outside_of_the_conversation() -> None:
    talk = Talk(TextPart("Sunny."), AnswerEnd("stop"))
    talk.say("Hello.")
    first = talk.conversation.last_id
    message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Classify."}]}
    fields = {
        "conversation": "none",
        "input": [{"type": "item_reference", "id": first}, message],
        "instructions": "One word.",
        "output_modalities": ["text"],
        "metadata": {"topic": "weather"},
        "max_output_tokens": 5,
        "some_new_field": 1,
    }
    events = await talk.respond(SETTINGS, ResponseParams.model_validate(fields))
    assert "conversation.item.added" not in events.kinds
    assert (events.done["conversation_id"], events.done["metadata"]) == (None, {"topic": "weather"})
    assert events.done["max_output_tokens"] == 5
    assert len(talk.conversation.messages()) == 1
    request = talk.chat.requests[0]
    assert [message["content"] for message in request.messages] == ["One word.", "Hello.", "Classify."]
    assert request.max_tokens == 5


@in_time
async def test_an_unknown_reference_fails_the_response() -> None:
    talk = Talk(TextPart("Sunny."), AnswerEnd("stop"))
    params = ResponseParams.model_validate({"input": [{"type": "item_reference", "id": "nothing"}]})
    assert (await talk.respond(TEXT, params)).done["status"] == "failed"


@in_time
async def test_a_function_call_follows_the_words_before_it() -> None:
    """Chat models refuse a conversation whose last message is their own, or go on with it; and two messages in a row."""
    call = CallPart(0, "c0", "weather", "{}")
    talk = Talk(TextPart("Let me look."), call, AnswerEnd("tool_calls"))
    talk.say("Will it rain?")
    events = await talk.respond()
    assert [item["type"] for item in events.done["output"]] == ["message", "function_call"]
    assert [event["output_index"] for event in events.of("response.output_item.added")] == [0, 1]
    assert events.done["output"][0]["content"][0]["transcript"] == "Let me look." and len(events.sound) > 0
    talk.conversation.add(FunctionCallOutput(call_id="c0", output="No."))
    await talk.respond()
    *_, user, answer, output = talk.chat.requests[1].messages
    assert [message["role"] for message in (user, answer, output)] == ["user", "assistant", "tool"]
    assert (answer["content"], answer["tool_calls"][0]["id"]) == ("Let me look.", "c0")


@in_time
async def test_a_call_after_signs_that_nobody_speaks_is_the_only_item() -> None:
    talk = Talk(TextPart("**\n"), CallPart(0, "c0", "weather", "{}"), AnswerEnd("tool_calls"))
    talk.say("Will it rain?")
    assert [item["type"] for item in (await talk.respond()).done["output"]] == ["function_call"]


@pytest.mark.parametrize("before", [(), (TextPart(FIRST),)])
def test_a_voice_waits_as_long_as_the_chat_model_writes(before: tuple[Script, ...]) -> None:
    """Its time limits are those of the chat model, not those of clients that send text."""

    async def test() -> None:
        parts = [part for _ in range(20) for part in (CallPart(0, "c0", "save", "1"), 9.0)]
        talk = Talk(*before, *parts, TextPart(SECOND), AnswerEnd("stop"))
        talk.say("Save it.")
        events = await talk.respond()
        assert (events.done["status"], events.done["status_details"]) == ("completed", None)
        assert len(events.sound) > 0

    run(test)


@pytest.mark.parametrize("steps", range(12))
def test_nothing_is_added_to_the_conversation_after_a_cancelled_response(steps: int) -> None:
    async def test() -> None:
        talk = Talk(CallPart(0, "c0", "now", "{}"), TextPart(f"{FIRST} {SECOND}"), AnswerEnd("stop"))
        talk.say("One?")
        talk.responses.create(SETTINGS)
        for _ in range(steps):
            await asyncio.sleep(0)
        if not talk.responses.speaking:
            return
        talk.responses.cancel(reason="turn_detected")
        before = len(talk.events)
        await asyncio.sleep(1)
        assert Events(talk.events[before:]).kinds == []
        await talk.responses.close()

    run(test)


@in_time
async def test_a_piece_that_the_fallback_voice_repeats_is_in_the_text_once() -> None:
    bench = test_speech_stream.Bench({(1, 2): 3600.0})
    plan = test_speech_stream.plan()
    service: Any = SimpleNamespace(
        directory=bench._directory, cache=bench._cache, recorder=test_speech_stream.Recorder()
    )
    ticket = bench._admission.admit(["late@cpu"], None, 1.0)
    voice = SpokenAnswer(service, plan, cast("Any", plan.text), ticket, "audio/pcm", now)
    words = "".join([part.words async for part in voice.parts()])
    assert words == voice.spoken.heard == " ".join(test_speech_stream.PIECES)


@pytest.mark.parametrize("settings", [SETTINGS, TEXT, ResponseSettings("echo", modality="text")])
def test_a_noise_that_stops_an_answer_before_its_first_word_leaves_the_question(settings: ResponseSettings) -> None:
    async def test() -> None:
        talk = Talk(TextPart(FIRST), AnswerEnd("stop"))
        talk.conversation.add_turn("turn")
        talk.responses.create(settings)
        talk.responses.cancel(reason="turn_detected")
        talk.done.clear()
        talk.conversation.heard("turn", "How was it?")
        talk.conversation.add_turn("cough")
        talk.conversation.heard("cough", "")
        events = await talk.respond(settings)
        (content,) = events.done["output"][0]["content"]
        assert (content.get("text") or content["transcript"]) in (FIRST, "How was it?")
        talk.conversation.add_turn("another cough")
        talk.conversation.heard("another cough", " ")
        assert (await talk.respond(settings)).done["output"] == [], "the question is answered"

    run(test)
