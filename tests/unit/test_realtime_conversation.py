"""Conversations over WS /v1/realtime: turns get spoken answers, and a client that speaks stops them. Stand-ins only."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from deployments.engines.protocols import RecognitionOptions, SpeechRequest
from deployments.errors import fail
from deployments.replica.wire import PackedChunk
from tests.unit.fakes import ToneSynthesizer
from tests.unit.jumping_clock import run
from tests.unit.live_fakes import CountingRecognition, FakeParts
from tests.unit.test_realtime import Client, kinds, only
from tests.unit.test_speech_sessions import in_time


def sound_of(events: list[dict[str, Any]]) -> bytes:
    return b"".join(base64.b64decode(e["delta"]) for e in events if e["type"] == "response.output_audio.delta")


@in_time
async def test_a_turn_is_answered_in_sound() -> None:
    client = Client(query="model=gpt-realtime")
    client.speak(1.0)
    client.be_silent(1.0)
    events = await client.events(10)
    order = [kind for kind in kinds(events) if kind not in ("delta", "response.output_audio.delta")]
    assert order[:3] == ["session.created", "speech_started", "speech_stopped"]
    assert order.index("committed") < order.index("response.created") < order.index("response.done")
    done = only(events, "response.done")["response"]
    assert done["status"] == "completed"
    assert done["output"][0]["content"][0]["transcript"] == "one two"  # `echo` answers
    assert len(sound_of(events)) > 0
    await client.leave()


class SlowSynthesizer(ToneSynthesizer):
    """Takes a second for each piece."""

    async def speak(self, request: SpeechRequest) -> AsyncIterator[PackedChunk]:
        async for chunk in super().speak(request):
            await asyncio.sleep(1)
            yield chunk


@pytest.mark.parametrize("interrupts", [True, False])
def test_a_client_that_speaks_stops_the_answer_if_the_session_wants_that(interrupts: bool) -> None:
    async def test() -> None:
        client = Client(query="model=gpt-realtime", synthesizer=SlowSynthesizer())
        turns = {"type": "server_vad", "interrupt_response": interrupts}
        client.update({"type": "realtime", "audio": {"input": {"turn_detection": turns}}})
        client.speak(3.0)
        client.be_silent(0.6)
        assert "response.created" in kinds(await client.events(0.5))
        client.speak(0.3)
        events = await client.events(5)
        done = only(events, "response.done")["response"]
        assert done["status"] == ("cancelled" if interrupts else "completed")
        assert bool(sound_of(events)) != interrupts
        if interrupts:
            assert done["status_details"]["reason"] == "turn_detected"
        await client.leave()
        assert all(report.open == 0 for report in client.bench.admission.snapshot().values())

    run(test)


@in_time
async def test_an_answer_in_text() -> None:
    client = Client(query="model=gpt-realtime")
    client.update({"type": "realtime", "output_modalities": ["text"]})
    client.speak(1.0)
    client.be_silent(1.0)
    events = await client.events(5)
    assert only(events, "response.output_text.done")["text"] == "one two"
    assert not sound_of(events)
    await client.leave()


@in_time
async def test_translate_answers_in_english() -> None:
    client = Client(query="model=translate")
    client.update({"type": "realtime", "output_modalities": ["text"]})
    client.speak(1.0)
    client.be_silent(1.0)
    events = await client.events(5)
    assert only(events, "response.output_text.done")["text"] == "EN one EN two"
    assert [recognition.options.translate for _, recognition in client.live.recognitions] == [False, True]
    assert client.live.admitted == [client.live.admitted[0]] * 2, "it is admitted for both hearings"
    await client.leave()


class WithoutTranslation(FakeParts):
    """The second hearing of each turn fails."""

    def recognize(self, model: str, options: RecognitionOptions, delay_s: float) -> CountingRecognition:
        recognition = super().recognize(model, options, delay_s)
        if options.translate:
            recognition._error, recognition._stuck = fail("overloaded", "Busy.", code="model_busy"), True
        return recognition


@in_time
async def test_a_turn_whose_translation_failed_does_not_wait_to_be_heard() -> None:
    client = Client(WithoutTranslation(), query="model=translate", realtime={"max_buffered_s": 10})
    client.update({"type": "realtime", "output_modalities": ["text"]})
    for _ in range(6):
        client.speak(2)
        await client.events(2)
    client.be_silent(1.0)
    await client.events()
    assert client.closed is None
    assert only(client.got, "input_audio_transcription.failed")["error"]["code"] == "model_busy"
    await client.leave()


@in_time
async def test_without_transcription_the_turn_is_heard_and_not_reported() -> None:
    client = Client(query="model=gpt-realtime")
    client.update({"type": "realtime", "output_modalities": ["text"], "audio": {"input": {"transcription": None}}})
    client.speak(1.0)
    client.be_silent(1.0)
    events = await client.events(5)
    assert only(events, "response.output_text.done")["text"] == "one two"
    assert not any("input_audio_transcription" in event["type"] for event in events)
    await client.leave()


@in_time
async def test_no_response_unless_the_session_wants_one() -> None:
    client = Client(query="model=gpt-realtime")
    turns = {"type": "server_vad", "create_response": False}
    client.update({"type": "realtime", "output_modalities": ["text"], "audio": {"input": {"turn_detection": turns}}})
    client.speak(1.0)
    client.be_silent(1.0)
    events = await client.events(5)
    assert "completed" in kinds(events) and "response.created" not in kinds(events)
    client.send("response.create")
    assert only(await client.events(5), "response.output_text.done")["text"] == "one two"
    await client.leave()


@in_time
async def test_items_and_responses_without_sound() -> None:
    client = Client(query="model=gpt-realtime")
    client.update({"type": "realtime", "output_modalities": ["text"]})
    content = [{"type": "input_text", "text": "hello"}]
    client.send("conversation.item.create", item={"type": "message", "role": "user", "content": content, "id": "mine"})
    client.send("response.create")
    client.send("conversation.item.retrieve", item_id="mine")
    client.send("conversation.item.delete", item_id="mine")
    client.send("response.cancel", event_id="late")
    events = await client.events(5)
    assert only(events, "response.done")["response"]["status"] in ("completed", "cancelled")
    assert "conversation.item.retrieved" in kinds(events) and "conversation.item.deleted" in kinds(events)
    client.send("response.cancel", event_id="late")
    events = await client.events()
    assert only(events, "error")["error"]["event_id"] == "late"
    await client.leave()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": "gpt-realtime-mini"}, "session.model"),
    "modality": ({"output_modalities": ["smell"]}, "session.output_modalities.0"),
    "speed": ({"audio": {"output": {"speed": 9}}}, "session.audio.output.speed"),
    "output rate": (
        {"audio": {"output": {"format": {"type": "audio/pcm", "rate": 16000}}}},
        "session.audio.output.format.rate",
    ),
    "tools": ({"tools": [{"type": "function"}]}, "session.tools.0.name"),
}


@pytest.mark.parametrize(("session", "param"), WRONG.values(), ids=WRONG)
def test_a_wrong_conversation_update_names_its_field(session: dict[str, Any], param: str) -> None:
    async def test() -> None:
        client = Client(query="model=gpt-realtime")
        client.update({"type": "realtime", **session}, event_id="mine")
        error = only(await client.events(), "error")["error"]
        assert (error["param"], error["event_id"]) == (param, "mine"), error
        await client.leave()

    run(test)


@in_time
async def test_settings_of_responses_are_kept() -> None:
    client = Client(query="model=gpt-realtime")
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
    update = {
        "type": "realtime",
        "instructions": "Be brief.",
        "tools": [tool],
        "tool_choice": {"type": "function", "name": "weather"},
        "max_output_tokens": 100,
        "tracing": "auto",
        "truncation": {"type": "retention_ratio", "retention_ratio": 0.5},
        "reasoning": {"effort": "low"},
        "audio": {"output": {"voice": {"id": "ada"}, "speed": 1.2, "format": {"type": "audio/pcmu"}}},
    }
    client.update(update)
    session = only(await client.events(), "session.updated")["session"]
    assert (session["instructions"], session["max_output_tokens"]) == ("Be brief.", 100)
    assert session["tools"][0]["name"] == "weather"
    assert session["audio"]["output"] == {"voice": {"id": "ada"}, "speed": 1.2, "format": {"type": "audio/pcmu"}}
    await client.leave()


@in_time
async def test_a_client_that_vanishes_while_it_is_answered_leaves_nothing() -> None:
    client = Client(query="model=gpt-realtime", synthesizer=SlowSynthesizer())
    client.speak(2.0)
    client.be_silent(0.6)
    await client.events(0.1)
    await client.leave()
    assert all(report.open == 0 for report in client.bench.admission.snapshot().values())


IDLE = {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 6000}}}}


async def silent_for(client: Client, seconds: float) -> list[dict[str, Any]]:
    """What comes while silence is recorded, a tenth of a second at a time."""
    events: list[dict[str, Any]] = []
    for _ in range(round(seconds * 10)):
        client.be_silent(0.1)
        events += await client.events(0.1)
    return events


@in_time
async def test_a_user_who_says_nothing_after_an_answer_is_prompted() -> None:
    client = Client(query="model=gpt-realtime")
    client.update(IDLE)
    assert "timeout_triggered" not in kinds(await silent_for(client, 8.0)), "no response has ended"
    client.speak(1.0)
    events = await silent_for(client, 5.0)
    audio_s = len(sound_of(events)) / 48_000
    assert audio_s > 0
    assert "timeout_triggered" not in kinds(events)
    events = await silent_for(client, 5.0 + audio_s)
    triggered = only(events, "timeout_triggered")
    assert triggered["audio_end_ms"] - triggered["audio_start_ms"] == pytest.approx(6000, abs=250)
    order = [kind for kind in kinds(events) if kind in ("timeout_triggered", "committed", "response.created")]
    assert order == ["timeout_triggered", "committed", "response.created"]
    assert only(events, "committed")["item_id"] == triggered["item_id"]
    await client.leave()


@in_time
async def test_a_user_who_speaks_after_an_answer_is_not_prompted() -> None:
    client = Client(query="model=gpt-realtime")
    turns = {"type": "server_vad", "idle_timeout_ms": 6000, "create_response": False}
    client.update({"type": "realtime", "audio": {"input": {"turn_detection": turns}}})
    client.speak(1.0)
    await silent_for(client, 1.0)
    client.send("response.create")
    assert "response.done" in kinds(await silent_for(client, 3.0))
    client.speak(1.0)
    assert "timeout_triggered" not in kinds(await silent_for(client, 12.0))
    await client.leave()
