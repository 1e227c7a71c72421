"""The WebSocket that takes text while it is written and sends audio, over stand-ins. No Ray, no network; the clock jumps."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import wave
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deployments.engines.protocols import SpeechTraits
from deployments.errors import MotetError
from deployments.settings import ArrivalSettings, PieceSettings
from serve_app.edge.settings import SecuritySettings
from serve_app.gateway.request_timing import RequestTiming
from serve_app.gateway.settings import AdmissionSettings, LimitSettings, SpeechSettings
from tests.unit.fakes import RATE, TRAITS, ToneSynthesizer, tone
from tests.unit.jumping_clock import now, run
from tests.unit.test_api import Bench, TimesOut, pcm_of

CONFIG = {"type": "session.config", "model": "tone", "response_format": "pcm"}
FIRST, SECOND = "It rained all day.", "We stayed inside and slept."


class Socket:
    """The client's side of one WebSocket."""

    def __init__(
        self,
        bench: Bench,
        headers: Mapping[str, str] | None = None,
        path: str = "/v1/audio/speech/stream",
        address: str = "127.0.0.1",
        query: str = "",
    ) -> None:
        self._to_server: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._to_client: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope = {
            "type": "websocket",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [
                (name.encode(), value.encode()) for name, value in {"host": "motet", **(headers or {})}.items()
            ],
            "extensions": {"websocket.http.response": {}},
            "subprotocols": [],
            "client": (address, 40000),
        }
        self._to_server.put_nowait({"type": "websocket.connect"})
        app = bench.api(scope, self._to_server.get, self._to_client.put)  # type: ignore[arg-type]
        self._task: asyncio.Task[None] = asyncio.create_task(app)

    async def received(self) -> dict[str, Any]:
        return await self._to_client.get()

    def send(self, **message: Any) -> None:
        self.send_raw(json.dumps(message))

    def send_raw(self, text: str) -> None:
        self._to_server.put_nowait({"type": "websocket.receive", "text": text})

    def leave(self) -> None:
        self._to_server.put_nowait({"type": "websocket.disconnect", "code": 1001})

    async def events(self) -> list[Any]:
        """Everything up to the end: events as mappings, sound as bytes, and the close code last."""
        got: list[Any] = []
        while True:
            message = await self.received()
            match message["type"]:
                case "websocket.send":
                    got.append(message["bytes"] if message.get("bytes") else json.loads(message["text"]))
                case "websocket.close":
                    await self._task
                    return [*got, message["code"]]

    async def over(self) -> None:
        await self._task


async def conversation(bench: Bench, *messages: Mapping[str, Any]) -> list[Any]:
    socket = Socket(bench)
    for message in messages:
        socket.send(**message)
    return await socket.events()


def text(words: str) -> dict[str, str]:
    return {"type": "input.text", "text": words}


DONE = {"type": "input.done"}


def sound_of(events: list[Any]) -> Any:
    return pcm_of(b"".join(event for event in events if isinstance(event, bytes)))


def kinds_of(events: list[Any]) -> list[str]:
    kinds = ["sound" if isinstance(event, bytes) else event["type"] for event in events[:-1]]
    return [kind for n, kind in enumerate(kinds) if kind != "sound" or kinds[n - 1] != "sound"]


def in_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    return lambda: run(test)


@in_time
async def test_a_session_is_the_sound_of_its_text() -> None:
    events = await conversation(Bench(), CONFIG, text("It rained all day. We stayed in"), text("side and slept."), DONE)
    assert kinds_of(events) == [*("audio.start", "sound", "audio.done") * 2, "session.done"]
    assert events[-1] == 1000
    start, done = events[0], events[-2]
    starts = [event for event in events[:-1] if not isinstance(event, bytes) and event["type"] == "audio.start"]
    assert [(start["sentence_index"], start["sentence_text"]) for start in starts] == [(0, FIRST), (1, SECOND)]
    assert starts[1]["start_seconds"] == pytest.approx(len(tone(FIRST)) / RATE, abs=1e-3)
    assert (start["format"], start["sample_rate"], start["model"], start["voice"]) == ("pcm", RATE, "tone", "ada")
    np.testing.assert_allclose(sound_of(events), np.concatenate([tone(FIRST), tone(SECOND)]), atol=1e-3)
    assert done["usage"]["input_tokens"] == len(FIRST) + len(SECOND)
    assert done["finish_reason"] == "stop"
    ended = [event for event in events[:-1] if not isinstance(event, bytes) and event["type"] == "audio.done"]
    assert sum(event["total_bytes"] for event in ended) == 2 * len(sound_of(events))
    assert done["total_sentences"] == 2


@pytest.mark.parametrize("audio_format", ["wav", "flac", "mp3", "opus"])
def test_every_byte_is_counted_to_a_piece(audio_format: str) -> None:
    async def test() -> None:
        config = {**CONFIG, "response_format": audio_format}
        events = await conversation(Bench(), config, text(f"{FIRST} {SECOND}"), DONE)
        told = [event for event in events[:-1] if not isinstance(event, bytes) and event["type"] == "audio.done"]
        assert [event["sentence_index"] for event in told] == [0, 1]
        assert sum(event["total_bytes"] for event in told) == sum(len(e) for e in events if isinstance(e, bytes))

    run(test)


@in_time
async def test_ignored_instructions_are_reported() -> None:
    events = await conversation(Bench(), {**CONFIG, "instructions": "Whisper."}, text(FIRST), DONE)
    assert events[0]["ignored"] == ["instructions"]
    assert "ignored" not in (await conversation(Bench(), CONFIG, text(FIRST), DONE))[0]


async def test_unknown_fields_of_the_configuration_are_reported_with_the_first_audio() -> None:
    config = {**CONFIG, "instructions": "Whisper.", "volume_multiplier": 2, "lang_code": "a"}
    events = await conversation(Bench(), config, text(FIRST), DONE)
    assert events[0]["ignored"] == ["instructions", "volume_multiplier", "lang_code"]


def test_the_first_sound_is_timed_from_the_first_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.gateway.speech.stream.RequestTiming", lambda: RequestTiming(clock=now))

    async def test() -> None:
        bench = Bench()
        socket = Socket(bench)
        socket.send(**CONFIG)
        await asyncio.sleep(20)
        for message in (text(FIRST), DONE):
            socket.send(**message)
        await socket.events()
        assert bench.recorder.first_sounds == [0.0]

    run(test)


@in_time
async def test_a_session_sounds_like_the_same_text_sent_at_once() -> None:
    bench, fields = Bench(), {"voice": "bo", "speed": 3.0, "seed": 7}
    events = await conversation(bench, {**CONFIG, **fields}, *map(text, f"{FIRST} {SECOND}"), DONE)
    whole = await bench.speak(input=f"{FIRST} {SECOND}", **fields)
    assert b"".join(event for event in events if isinstance(event, bytes)) == whole.content


@in_time
async def test_sound_leaves_while_the_text_is_still_being_written() -> None:
    socket, begun = Socket(Bench()), now()
    socket.send(**CONFIG)
    socket.send(**text(f"{FIRST} We stayed inside"))
    assert (await socket.received())["type"] == "websocket.accept"
    assert json.loads((await socket.received())["text"])["type"] == "audio.start"
    sound = (await socket.received())["bytes"]
    np.testing.assert_allclose(pcm_of(sound), tone(FIRST), atol=1e-3)
    told = json.loads((await socket.received())["text"])
    assert told == {"type": "audio.done", "sentence_index": 0, "total_bytes": len(sound)}
    assert now() == begun  # nothing was waited for
    socket.send(**text(" and slept."))
    socket.send(**DONE)
    rest = await socket.events()
    assert kinds_of(rest) == ["audio.start", "sound", "audio.done", "session.done"]
    np.testing.assert_allclose(sound_of(rest), tone(SECOND), atol=1e-3)


@in_time
async def test_a_sentence_that_is_stretched_leaves_before_the_next_is_written() -> None:
    socket = Socket(Bench())
    socket.send(**{**CONFIG, "speed": 4.0})
    socket.send(**text(f"{FIRST} We stayed inside"))
    assert (await socket.received())["type"] == "websocket.accept"
    assert json.loads((await socket.received())["text"])["sentence_text"] == FIRST
    sound = (await socket.received())["bytes"]
    assert len(pcm_of(sound)) == round(len(tone(FIRST, 2.0)) / 2)
    socket.send(**text(" and slept."))
    socket.send(**DONE)
    rest = await socket.events()
    starts = [event for event in rest[:-1] if not isinstance(event, bytes) and event["type"] == "audio.start"]
    assert [start["sentence_text"] for start in starts] == [SECOND]
    assert len(sound_of(rest)) == round(len(tone(SECOND, 2.0)) / 2)


@in_time
async def test_a_wav_is_one_file() -> None:
    messages = ({**CONFIG, "response_format": "wav"}, text(f"{FIRST} {SECOND}"), DONE)
    events = await conversation(Bench(), *messages)
    data = b"".join(event for event in events if isinstance(event, bytes))
    with wave.open(io.BytesIO(data)) as file:
        assert file.getframerate() == RATE
    assert data.count(b"RIFF") == 1


@in_time
async def test_messages_are_short_enough_for_clients() -> None:
    """Also for a piece with ten seconds of sound, made at once."""
    pieces = PieceSettings(first_piece_characters=1000, piece_characters=1000)
    words = "a" + " rain" * 199 + "."
    events = await conversation(Bench(speech=SpeechSettings(pieces=pieces)), CONFIG, text(words), DONE)
    assert kinds_of(events) == ["audio.start", "sound", "audio.done", "session.done"]
    sizes = [len(event) for event in events if isinstance(event, bytes)]
    assert sum(sizes) == 2 * len(tone(words)) == events[-3]["total_bytes"]
    assert max(sizes) == 64 * 1024 and min(sizes) > 0
    np.testing.assert_allclose(sound_of(events), tone(words), atol=1e-3)


@in_time
async def test_a_flush_speaks_at_once() -> None:
    socket = Socket(Bench())
    for message in (CONFIG, text("Well then"), {"type": "input.flush"}):
        socket.send(**message)
    await socket.received()
    await socket.received()
    np.testing.assert_allclose(pcm_of((await socket.received())["bytes"]), tone("Well then"), atol=1e-3)
    socket.leave()
    await socket.over()


@in_time
async def test_a_script_goes_on_with_its_speaker() -> None:
    class Pair(ToneSynthesizer):
        async def traits(self) -> SpeechTraits:
            return replace(TRAITS, most_speakers=2)

    bench = Bench(Pair())
    await conversation(bench, {**CONFIG, "voice": "ada,bo"}, text(f"Speaker 2: {FIRST} {SECOND}"), DONE)
    asked = [piece for name, (request,) in spoken(bench) for piece in request.pieces]
    assert asked == [f"Speaker 2: {FIRST}", f"Speaker 2: {SECOND}"]


def spoken(bench: Bench) -> list[tuple[str, tuple[Any, ...]]]:
    return [call for call in bench.handle.calls if call[0] == "speak"]


@in_time
async def test_a_client_that_leaves_frees_its_place_and_its_stream() -> None:
    class Slow(ToneSynthesizer):
        async def speak(self, request: Any) -> Any:
            async for chunk in super().speak(request):
                yield chunk
                await asyncio.sleep(3600)

    bench = Bench(Slow())
    socket = Socket(bench)
    socket.send(**CONFIG)
    socket.send(**text(f"{FIRST} {SECOND} And then some more."))
    while (await socket.received()).get("bytes") is None:
        pass
    assert bench.admission.snapshot()["tone@cpu"].open == 1
    socket.leave()
    await socket.over()
    assert bench.admission.snapshot()["tone@cpu"].open == 0
    assert [answers.cancelled for answers in bench.handle.answers] == [True]


@in_time
async def test_only_text_that_arrived_counts_as_queued() -> None:
    bench = Bench()
    socket = Socket(bench)
    socket.send(**CONFIG)
    await socket.received()
    await asyncio.sleep(1)
    assert bench.admission.snapshot()["tone@cpu"].queued_seconds == 0
    assert bench.admission.snapshot()["tone@cpu"].wait_s == 0
    socket.send(**text("a" * 30))
    await asyncio.sleep(0.5)
    assert bench.admission.snapshot()["tone@cpu"].queued_seconds == pytest.approx(2.0)
    socket.leave()
    await socket.over()


class Silent(ToneSynthesizer):
    """Never makes a sound."""

    async def speak(self, request: Any) -> Any:
        await asyncio.sleep(3600)
        yield  # pragma: no cover


@in_time
async def test_sessions_whose_text_is_far_ahead_do_not_keep_out_a_chat_reply() -> None:
    bench = Bench(Silent())
    sockets = [Socket(bench) for _ in range(10)]
    for socket in sockets:
        for message in (CONFIG, text("We stayed inside and slept. " * 3400)):
            socket.send(**message)
    await asyncio.sleep(1)
    assert bench.admission.snapshot()["tone@cpu"].queued_seconds == 10 * SpeechSettings().request_seconds_of_audio
    bench.admission.admit(["tone@cpu"], None, 30.0, max_wait_s=3600.0).close()
    for socket in sockets:
        socket.leave()
        await socket.over()


@in_time
async def test_a_session_ends_when_its_text_is_more_than_its_key_may_have_queued() -> None:
    control = AdmissionSettings(max_queued_seconds_of_audio_per_key=60.0, short_seconds_of_audio=0.0)
    bench = Bench(
        Silent(), security=SecuritySettings(api_key_sha256=(DIGEST,)), speech=SpeechSettings(admission=control)
    )
    bench.admission.admit(["tone@cpu"], DIGEST, 55.0).stop_waiting()
    socket = Socket(bench, {"authorization": "Bearer key"})
    for message in (CONFIG, text("We stayed inside and slept. " * 10)):
        socket.send(**message)
    events = await socket.events()
    assert (events[0]["error"]["type"], events[0]["error"]["code"]) == ("rate_limit_error", "queue_full")
    assert events[-1] == 1013


@in_time
async def test_a_session_is_refused_when_too_much_waits() -> None:
    bench = Bench()
    with pytest.raises(MotetError):
        while True:
            bench.admission.admit(["tone@cpu"], None, 0.0)
    events = await conversation(bench, CONFIG)
    assert events[0]["error"]["code"] == "queue_full"
    assert events[-1] == 1013


@in_time
async def test_silent_sessions_are_bounded() -> None:
    bench = Bench(speech=SpeechSettings(arrival=ArrivalSettings(max_sessions=2)))
    silent = [Socket(bench), Socket(bench)]
    await asyncio.sleep(1)
    events = await conversation(bench, CONFIG)
    assert (events[0]["error"]["type"], events[0]["error"]["code"]) == ("rate_limit_error", "too_many_sessions")
    assert events[-1] == 1013
    for socket in silent:
        socket.leave()
        await socket.over()
    assert (await conversation(bench, CONFIG, text(FIRST), DONE))[-1] == 1000


AWAY = "192.0.2.1"
CLIENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "address": ({"address": AWAY}, {"address": "192.0.2.2"}),
    "behind HAProxy": ({"headers": {"x-motet-client": AWAY}}, {"headers": {"x-motet-client": "192.0.2.2"}}),
    "behind HAProxy, this machine": (
        {"headers": {"x-motet-client": AWAY}},
        {"headers": {"x-motet-client": "127.0.0.1"}},
    ),
    "key": (
        {"headers": {"authorization": "Bearer key"}, "address": AWAY},
        {"headers": {"authorization": "Bearer other"}, "address": AWAY},
    ),
}


@pytest.mark.parametrize(("one", "other"), CLIENTS.values(), ids=CLIENTS)
def test_one_client_cannot_hold_all_sessions(one: dict[str, Any], other: dict[str, Any]) -> None:
    async def test() -> None:
        digests = (
            tuple(hashlib.sha256(key).hexdigest() for key in (b"key", b"other")) if "authorization" in str(one) else ()
        )
        arrival = ArrivalSettings(max_sessions=10, max_sessions_per_client=2)
        bench = Bench(speech=SpeechSettings(arrival=arrival), security=SecuritySettings(api_key_sha256=digests))
        silent = [Socket(bench, **one), Socket(bench, **one)]
        await asyncio.sleep(1)
        events = await Socket(bench, **one).events()
        assert (events[0]["error"]["type"], events[0]["error"]["code"]) == ("rate_limit_error", "too_many_sessions")
        assert "This client has 2" in events[0]["error"]["message"]
        assert events[-1] == 1013
        others = [Socket(bench, **other), Socket(bench, **other)]
        await asyncio.sleep(1)
        for socket in [*silent, *others]:
            socket.leave()
            await socket.over()
        again = Socket(bench, **one)
        for message in (CONFIG, text(FIRST), DONE):
            again.send(**message)
        assert (await again.events())[-1] == 1000

    run(test)


@pytest.mark.parametrize(("most", "address"), [(None, AWAY), (2, "127.0.0.1"), (2, "::1")])
def test_a_client_may_hold_all_sessions_without_a_bound_or_on_this_machine(most: int | None, address: str) -> None:
    async def test() -> None:
        arrival = ArrivalSettings(max_sessions=5, max_sessions_per_client=most)
        bench = Bench(speech=SpeechSettings(arrival=arrival))
        silent = [Socket(bench, address=address) for _ in range(5)]
        await asyncio.sleep(1)
        error = (await Socket(bench, address=address).events())[0]["error"]
        assert "5 speech sessions are open" in error["message"]
        for socket in silent:
            socket.leave()
            await socket.over()

    run(test)


BAD: dict[str, tuple[list[str], str, int]] = {
    "no JSON": (["hello"], "json_invalid", 1008),
    "deep JSON": (["[" * 15_000], "json_too_complex", 1008),
    "no object": (["[1]"], "json_invalid", 1008),
    "text first": ([json.dumps(text("Hello."))], "no_config", 1008),
    "unknown type": ([json.dumps({"type": "input.audio"})], "unknown_type", 1008),
    "unknown field": ([json.dumps({**CONFIG, "vioce": "ada"})], "extra_forbidden", 1008),
    "no model": ([json.dumps({"type": "session.config"})], "missing", 1008),
    "unknown model": ([json.dumps({**CONFIG, "model": "nobody"})], "model_not_found", 1008),
    "unknown voice": ([json.dumps({**CONFIG, "voice": "nobody"})], "voice_not_found", 1008),
    "two configs": ([json.dumps(CONFIG)] * 2, "configured", 1008),
    "text after the end": (
        [json.dumps(m) for m in (CONFIG, text("One two."), DONE, text("Three."))],
        "text_ended",
        1008,
    ),
    "too long": ([json.dumps(m) for m in (CONFIG, text("a " * 40), text("b " * 40))], "string_above_max_length", 1009),
    "too large": ([json.dumps(CONFIG), json.dumps(text("ä" * 10_000))], "message_too_large", 1009),
    "nothing to say": ([json.dumps(m) for m in (CONFIG, text("... !!!"), DONE)], "empty_input", 1008),
}


@pytest.mark.parametrize(("messages", "code", "closed"), BAD.values(), ids=BAD.keys())
def test_an_invalid_message_ends_the_session_with_an_error(messages: list[str], code: str, closed: int) -> None:
    async def test() -> None:
        bench = Bench(speech=SpeechSettings(arrival=ArrivalSettings(max_characters=100, max_message_bytes=20_000)))
        socket = Socket(bench)
        for message in messages:
            socket.send_raw(message)
        events = await socket.events()
        (error,) = [event for event in events[:-1] if not isinstance(event, bytes) and event["type"] == "error"]
        assert error["error"]["code"] == code, error
        assert error["error"]["message"].endswith(".")
        assert events[-1] == closed
        assert all(report.open == 0 for report in bench.admission.snapshot().values())

    run(test)


@pytest.mark.parametrize("words", ["", "  \n ", "... !!!"])
def test_a_text_without_words_has_the_error_of_post(words: str) -> None:
    async def test() -> None:
        bench = Bench()
        events = await conversation(bench, CONFIG, text(words), DONE)
        assert events[0]["error"] == (await bench.speak(input=words)).json()["error"]
        assert events[0]["error"]["message"] == "The input has no words to speak. Send some words."

    run(test)


@pytest.mark.parametrize(("messages", "code"), [([], "no_config"), ([CONFIG], "session_idle")])
def test_a_silent_client_is_disconnected(messages: list[dict[str, str]], code: str) -> None:
    async def test() -> None:
        events = await conversation(Bench(), *messages)
        assert events[0]["error"]["code"] == code

    run(test)


@in_time
async def test_a_session_has_a_deadline() -> None:
    bench = Bench(
        limits=LimitSettings(request_deadline_s=10.0), speech=SpeechSettings(arrival=ArrivalSettings(idle_s=20.0))
    )
    events = await conversation(bench, CONFIG)
    assert events[0]["error"]["code"] == "deadline"
    assert "longer than the 10 s" in events[0]["error"]["message"]
    assert events[-1] == 1013


@in_time
async def test_a_timeout_inside_a_session_is_not_its_deadline() -> None:
    events = await conversation(Bench(TimesOut()), CONFIG, text(FIRST), DONE)
    assert events[0]["error"].get("code") != "deadline"
    assert events[-1] == 1011


@in_time
async def test_an_engine_error_follows_the_sound_before_it() -> None:
    events = await conversation(Bench(ToneSynthesizer(failing_at=1)), CONFIG, text(f"{FIRST} {SECOND}"), DONE)
    assert kinds_of(events)[:2] == ["audio.start", "sound"]
    assert events[-2]["error"]["type"] == "server_error"
    assert events[-1] == 1011


DIGEST = hashlib.sha256(b"key").hexdigest()
KEYS = {
    "header": ({"authorization": "Bearer key"}, None),
    "subprotocol": ({"sec-websocket-protocol": "realtime, openai-insecure-api-key.key"}, "realtime"),
    "subprotocol alone": ({"sec-websocket-protocol": "openai-insecure-api-key.key"}, None),
}


@pytest.mark.parametrize(("headers", "subprotocol"), KEYS.values(), ids=KEYS.keys())
def test_a_key_comes_in_a_header_or_as_a_subprotocol(headers: dict[str, str], subprotocol: str | None) -> None:
    async def test() -> None:
        socket = Socket(Bench(security=SecuritySettings(api_key_sha256=(DIGEST,))), headers)
        accepted = await socket.received()
        assert (accepted["type"], accepted["subprotocol"]) == ("websocket.accept", subprotocol)
        socket.leave()
        await socket.over()

    run(test)


STRANGERS = {
    "no key": ({}, 401, "invalid_api_key"),
    "wrong key": ({"authorization": "Bearer no"}, 401, "invalid_api_key"),
    "wrong subprotocol": ({"sec-websocket-protocol": "openai-insecure-api-key.no"}, 401, "invalid_api_key"),
    "other origin": ({"authorization": "Bearer key", "origin": "http://evil.example"}, 403, "origin_not_allowed"),
    "malformed origin": ({"authorization": "Bearer key", "origin": "http://[::1"}, 403, "origin_not_allowed"),
    "no origin": ({"authorization": "Bearer key", "origin": "null"}, 403, "origin_not_allowed"),
}


@pytest.mark.parametrize(("headers", "status", "code"), STRANGERS.values(), ids=STRANGERS.keys())
def test_strangers_are_refused_before_the_socket_opens(headers: dict[str, str], status: int, code: str) -> None:
    async def test() -> None:
        socket = Socket(Bench(security=SecuritySettings(api_key_sha256=(DIGEST,))), headers)
        start, body = await socket.received(), await socket.received()
        assert (start["type"], start["status"]) == ("websocket.http.response.start", status)
        assert json.loads(body["body"])["error"]["code"] == code
        await socket.over()

    run(test)


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/realtime/calls", "/", "/v1/" + "p" * 5_000])
def test_other_paths_take_no_websocket(path: str) -> None:
    async def test() -> None:
        socket = Socket(Bench(), path=path)
        start, body = await socket.received(), await socket.received()
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 404)
        error = json.loads(body["body"])["error"]
        assert error["code"] == "path_not_found"
        assert len(error["message"]) < 300
        await socket.over()

    run(test)


@pytest.mark.parametrize("origin", ["http://motet", "https://app.example.com"])
def test_pages_of_the_service_and_of_allowed_origins_may_open_one(origin: str) -> None:
    async def test() -> None:
        allowed = SecuritySettings(allowed_origins=("https://app.example.com",))
        socket = Socket(Bench(security=allowed), {"origin": origin})
        assert (await socket.received())["type"] == "websocket.accept"
        socket.leave()
        await socket.over()

    run(test)
