"""The Wyoming bridge, with a service in memory and clients on socket pairs."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosedError
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioFormat, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, async_read_event, async_write_event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeVoice,
)

from deployments.errors import Failure, MotetError, fail
from deployments.text.languages import NAMES
from serve_app.wyoming import remote_service, transcription
from serve_app.wyoming.catalogue import Catalogue
from serve_app.wyoming.connection import Bridge, BridgeLimits
from serve_app.wyoming.input_sound import InputSound
from serve_app.wyoming.remote_service import RemoteService, ServiceSession, refused, session_failure
from serve_app.wyoming.server import server_at
from serve_app.wyoming.transcription import SoundPace

RATE = 24_000
MODELS: list[dict[str, Any]] = [
    {"id": "ear.en", "motet": {"task": "transcription", "aliases": ["whisper-1"], "languages": ["en"]}},
    {"id": "ear", "motet": {"task": "transcription", "aliases": [], "languages": []}},
    {"id": "whisper-1", "motet": {"task": "transcription", "alias_of": "ear.en"}},
    {"id": "tone", "motet": {"task": "speech", "aliases": []}},
    {"id": "choir", "motet": {"task": "speech", "aliases": []}},
    {"id": "split", "motet": {"task": "separation", "aliases": []}},
]
VOICES: list[dict[str, Any]] = [
    {"id": "ada", "model": "tone", "language": "en-GB", "description": "calm"},
    {"id": "bo", "model": "tone", "language": "de", "description": ""},
    {"id": "ada", "model": "choir", "language": "und", "description": ""},
    {"id": "voice_1", "name": "Mine", "models": ["choir"]},
    {"id": "voice_2", "name": "Nobody's", "models": []},
]
CATALOGUE = Catalogue.of(MODELS, VOICES)


class FakeSession:
    """A session that speaks each text as its own bytes, and hears each second of sound as one word."""

    def __init__(self, broken: Failure | None) -> None:
        self.sent: list[dict[str, Any]] = []
        self.closed = False
        self._answers: asyncio.Queue[bytes | dict[str, Any] | Failure | None] = asyncio.Queue()
        if broken:
            self._answers.put_nowait(broken)

    async def send(self, **fields: Any) -> None:
        self.sent.append(fields)
        match fields["type"]:
            case "input.text":
                self._answers.put_nowait({"type": "audio.start", "sample_rate": RATE})
                self._answers.put_nowait(fields["text"].encode("utf-16-le"))
            case "input.done":
                self._answers.put_nowait({"type": "session.done"})
                self._answers.put_nowait(None)
            case "input_audio_buffer.append":
                self._answers.put_nowait({"type": f"{transcription._TRANSCRIPTION}delta", "delta": "word "})
            case "input_audio_buffer.commit":
                said = "word " * len(self.of("input_audio_buffer.append"))
                self._answers.put_nowait(
                    {"type": f"{transcription._TRANSCRIPTION}completed", "transcript": said.strip()}
                )

    async def messages(self) -> AsyncGenerator[bytes | dict[str, Any]]:
        while (answer := await self._answers.get()) is not None:
            if isinstance(answer, Failure):
                raise MotetError(answer)
            yield answer

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [fields for fields in self.sent if fields["type"] == kind]


class FakeService(RemoteService):
    """A service in memory. `away` is what it answers while it is down; `broken` is how its sessions fail."""

    def __init__(self) -> None:
        super().__init__("http://service", None)
        self.sessions: list[FakeSession] = []
        self.away: MotetError | None = None
        self.broken: Failure | None = None
        self.closed = asyncio.Event()

    async def catalogue(self) -> Catalogue:
        if self.away:
            raise self.away
        return CATALOGUE

    @asynccontextmanager
    async def session(self, path: str) -> AsyncIterator[ServiceSession]:
        self.sessions.append(FakeSession(self.broken))
        try:
            yield cast(ServiceSession, self.sessions[-1])
        finally:
            self.closed.set()


class Client:
    """Wyoming's own events on one end of a socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def send(self, *events: Any) -> None:
        for event in events:
            await async_write_event(event.event(), self.writer)

    async def next(self) -> Event | None:
        return await async_read_event(self._reader)

    async def until(self, kind: type[Any]) -> list[Event]:
        """Every event up to one of that kind."""
        found = []
        while (event := await self.next()) is not None:
            found.append(event)
            if kind.is_type(event.type):
                return found
        raise AssertionError(f"the connection ended after {found}")


@asynccontextmanager
async def connected(service: FakeService, **limits: Any) -> AsyncIterator[Client]:
    bridge = Bridge(service, BridgeLimits(**limits))
    async with connected_to(bridge) as client:
        yield client


@asynccontextmanager
async def connected_to(bridge: Bridge) -> AsyncIterator[Client]:
    ours, theirs = socket.socketpair()
    serving = asyncio.create_task(bridge.connection(*await asyncio.open_connection(sock=ours)).run())
    reader, writer = await asyncio.open_connection(sock=theirs)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        await serving


def sound_of(events: list[Event]) -> bytes:
    return b"".join(event.payload or b"" for event in events if AudioChunk.is_type(event.type))


def seconds(count: float, rate: int = 16_000) -> AudioChunk:
    return AudioChunk(rate, 2, 1, bytes(round(2 * rate * count)))


# --- What there is


async def test_a_client_is_told_models_voices_and_languages() -> None:
    async with connected(FakeService()) as client:
        await client.send(Describe())
        info = Info.from_event((await client.until(Info))[-1])
    (asr,), (tts,) = info.asr, info.tts
    assert {model.name: model.languages for model in asr.models} == {"ear.en": ["en"], "ear": list(NAMES)}
    assert {voice.name: voice.languages[:1] for voice in tts.voices} == {
        "ada": ["en-GB"],
        "bo": ["de"],
        "choir/ada": ["af"],
        "voice_1": ["af"],
    }
    assert asr.supports_transcript_streaming
    assert tts.supports_synthesize_streaming
    assert all(each.installed for each in (asr, tts, *asr.models, *tts.voices))


@pytest.mark.parametrize(
    ("chosen", "model", "voice"),
    [
        (None, "tone", None),
        (SynthesizeVoice(), "tone", None),
        (SynthesizeVoice(name="bo"), "tone", "bo"),
        (SynthesizeVoice(name="choir/ada"), "choir", "ada"),
        (SynthesizeVoice(language="de-AT"), "tone", "bo"),
        (SynthesizeVoice(language="ja"), "choir", "ada"),
    ],
)
def test_a_voice_is_chosen_by_name_or_language(chosen: SynthesizeVoice | None, model: str, voice: str | None) -> None:
    found = CATALOGUE.voice(chosen)
    assert (found.model, found.id) == (model, voice)


@pytest.mark.parametrize(
    ("name", "language", "model"),
    [
        (None, None, "ear.en"),
        (None, "en-US", "ear.en"),
        (None, "de", "ear"),
        ("whisper-1", "de", "ear.en"),
        ("ear", None, "ear"),
    ],
)
def test_a_model_is_chosen_by_name_or_language(name: str | None, language: str | None, model: str) -> None:
    assert CATALOGUE.recognition_model(name, language) == model


def test_an_unknown_voice_or_model_names_the_known_ones() -> None:
    with pytest.raises(MotetError, match="ada, bo, choir/ada, voice_1"):
        CATALOGUE.voice(SynthesizeVoice(name="carl"))
    with pytest.raises(MotetError, match=r"ear\.en, ear"):
        CATALOGUE.recognition_model("nose", None)
    with pytest.raises(MotetError, match="no model that speaks"):
        Catalogue((), (), ()).voice(None)


async def test_a_ping_is_answered() -> None:
    async with connected(FakeService()) as client:
        await client.send(Ping("there?"))
        assert Pong.from_event((await client.until(Pong))[-1]).text == "there?"


# --- Speech


async def test_a_text_is_spoken_by_the_chosen_voice() -> None:
    service = FakeService()
    async with connected(service) as client:
        for name in ("bo", "choir/ada"):
            await client.send(Synthesize("Hello.", SynthesizeVoice(name=name)))
            events = await client.until(AudioStop)
            assert AudioStart.from_event(events[0]) == AudioStart(RATE, 2, 1, timestamp=0)
            assert sound_of(events) == "Hello.".encode("utf-16-le")
    configured = [session.sent[0] for session in service.sessions]
    assert [(fields["model"], fields["voice"]) for fields in configured] == [("tone", "bo"), ("choir", "ada")]


async def test_a_text_is_spoken_while_it_is_written() -> None:
    service = FakeService()
    async with connected(service) as client:
        await client.send(SynthesizeStart(), SynthesizeChunk(" "), SynthesizeChunk("One. "))
        assert sound_of(await client.until(AudioChunk)) == "One. ".encode("utf-16-le")
        await client.send(SynthesizeChunk("Two."), Synthesize("One. Two."), SynthesizeStop())
        rest = await client.until(SynthesizeStopped)
    assert sound_of(rest) == "Two.".encode("utf-16-le")
    assert [event.type for event in rest] == ["audio-chunk", "audio-stop", "synthesize-stopped"]
    assert len(service.sessions) == 1


async def test_an_empty_text_in_parts_ends_without_sound() -> None:
    service = FakeService()
    async with connected(service) as client:
        await client.send(SynthesizeStart(), SynthesizeChunk("  "), SynthesizeStop())
        assert [event.type for event in await client.until(SynthesizeStopped)] == ["synthesize-stopped"]
    assert not service.sessions


# --- Transcription


async def test_sound_becomes_words_while_it_is_spoken_and_the_whole_text_at_its_end() -> None:
    service = FakeService()
    async with connected(service) as client:
        await client.send(Transcribe(language="en", transcript_names=["Motet"]), AudioStart(16_000, 2, 1), seconds(1))
        assert TranscriptChunk.from_event((await client.until(TranscriptChunk))[-1]).text == "word "
        await client.send(seconds(1), AudioStop())
        rest = await client.until(TranscriptStop)
    assert [event.type for event in rest] == ["transcript-chunk", "transcript", "transcript-stop"]
    assert Transcript.from_event(rest[1]) == Transcript("word word", language="en")
    (session,) = service.sessions
    heard = session.sent[0]["session"]["audio"]["input"]
    assert heard["transcription"] == {"model": "ear.en", "language": "en", "prompt": "Motet"}
    assert heard["turn_detection"] is None
    appended = [base64.b64decode(fields["audio"]) for fields in session.of("input_audio_buffer.append")]
    assert sum(map(len, appended)) == 2 * 2 * heard["format"]["rate"]


async def test_a_second_recording_on_the_same_connection_has_its_own_language() -> None:
    service = FakeService()
    async with connected(service) as client:
        await client.send(Transcribe(language="de"), AudioStart(16_000, 2, 1), seconds(1), AudioStop())
        assert TranscriptStart.from_event((await client.until(TranscriptStop))[0]).language == "de"
        await client.send(AudioStart(16_000, 2, 1), seconds(1), AudioStop())
        await client.until(TranscriptStop)
    chosen = [session.sent[0]["session"]["audio"]["input"]["transcription"] for session in service.sessions]
    assert chosen == [{"model": "ear", "language": "de"}, {"model": "ear.en"}]


@pytest.mark.parametrize(("width", "channels", "rate"), [(1, 1, 16_000), (2, 2, 16_000), (4, 1, 48_000), (2, 1, 8_000)])
def test_other_formats_are_converted(width: int, channels: int, rate: int) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    whole = np.repeat(np.rint(tone * (2 ** (8 * width - 1) - 1)), channels)
    data = (whole + 128).astype("u1").tobytes() if width == 1 else whole.astype(f"<i{width}").tobytes()
    sound = InputSound(AudioFormat(rate, width, channels))
    half = len(data) // 2
    parts = [sound.convert(AudioChunk(rate, width, channels, part)) for part in (data[:half], data[half:])]
    found = np.frombuffer(b"".join([*parts, sound.finish()]), "<i2") / 32768
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert len(found) == pytest.approx(16_000, abs=2)
    assert np.abs(found[200:15_800] - wanted[200:15_800]).max() < 0.02


@pytest.mark.parametrize("form", [(16_000, 3, 1), (16_000, 2, 0), (0, 2, 1), (16_000, 2, 1000)])
def test_a_format_that_cannot_be_converted_is_refused(form: tuple[int, int, int]) -> None:
    with pytest.raises(MotetError, match="Send 1, 2 or 4 bytes"):
        InputSound(AudioFormat(*form))


def test_the_format_stays() -> None:
    sound = InputSound(AudioFormat(16_000, 2, 1))
    for chunk in (AudioChunk(8_000, 2, 1, b"ab"), AudioChunk(16_000, 2, 1, b"abc")):
        with pytest.raises(MotetError, match="format of its audio-start"):
            sound.convert(chunk)


async def test_a_file_is_sent_no_faster_than_the_service_takes_it() -> None:
    now, slept = 0.0, []

    async def sleep(for_s: float) -> None:
        nonlocal now
        slept.append(for_s)
        now += for_s

    pace = SoundPace(60.0, lambda: now, sleep)
    for _ in range(30):
        await pace.before(transcription.BYTES_PER_SECOND)
    assert sum(slept) == pytest.approx(30 - transcription.AHEAD_S)
    assert len(slept) == 30 - transcription.AHEAD_S
    with pytest.raises(MotetError, match="over 60 s"):
        await pace.before(31 * transcription.BYTES_PER_SECOND)


# --- Failures and limits


AWAY = fail("unavailable", "The service does not answer.", "Start it with motet serve.", code="service_unavailable")


@pytest.mark.parametrize(
    "request_", [[Describe()], [Synthesize("Hello.")], [AudioStart(16_000, 2, 1), seconds(1)], [SynthesizeStart()]]
)
async def test_a_service_that_is_down_is_an_error_with_a_remedy_and_the_end(request_: list[Any]) -> None:
    service = FakeService()
    service.away = AWAY
    async with connected(service) as client:
        await client.send(*request_)
        error = Error.from_event((await client.until(Error))[-1])
        assert await client.next() is None
    assert error == Error("The service does not answer. Start it with motet serve.", "service_unavailable")


async def test_what_the_service_refuses_reaches_the_client() -> None:
    service = FakeService()
    service.broken = Failure("overloaded", "Too much audio is queued.", "Try again later.", code="queue_full")
    async with connected(service) as client:
        await client.send(AudioStart(16_000, 2, 1), seconds(1))
        assert Error.from_event((await client.until(Error))[-1]).code == "queue_full"
        assert await client.next() is None


async def test_a_client_that_vanishes_cancels_the_work() -> None:
    service = FakeService()
    async with connected(service) as client:
        await client.send(SynthesizeStart(), SynthesizeChunk("One. "))
        await client.until(AudioChunk)
        assert not service.closed.is_set()
    assert service.closed.is_set()


async def test_a_client_that_sends_nothing_is_disconnected() -> None:
    async with connected(FakeService(), idle_s=0.01) as client:
        assert Error.from_event((await client.until(Error))[-1]).code == "idle"
        assert await client.next() is None


async def test_one_client_too_many_is_refused_and_the_next_is_not() -> None:
    bridge = Bridge(FakeService(), BridgeLimits(connections=1))
    async with connected_to(bridge) as first:
        await first.send(Ping())
        await first.until(Pong)
        async with connected_to(bridge) as second:
            assert Error.from_event((await second.until(Error))[-1]).code == "too_many_connections"
    async with connected_to(bridge) as third:
        await third.send(Ping())
        await third.until(Pong)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"rubbish\n", "event_invalid"),
        (b"[" * 50_000 + b"\n", "event_invalid"),
        (b"[1]\n", "event_invalid"),
        (b'{"type": 1}\n', "event_invalid"),
        (b'{"type": "ping", "data": 3}\n', "event_invalid"),
        (b"a" * 100_000, "event_invalid"),
        (b'{"type": "ping", "data_length": -1}\n', "event_invalid"),
        (b'{"type": "ping", "data_length": "9"}\n', "event_invalid"),
        (b'{"type": "ping", "data_length": 9999999}\n', "event_too_large"),
        (b'{"type": "audio-chunk", "payload_length": 1000000000000}\n', "event_too_large"),
        (b'{"type": "synthesize", "data": {"text": 3}}\n', "event_invalid"),
        (b'{"type": "synthesize"}\n', "event_invalid"),
        (b'{"type": "audio-start", "data": {"rate": [], "width": 2, "channels": 1}}\n', "event_invalid"),
    ],
)
async def test_what_is_not_an_event_ends_the_connection_with_an_error(line: bytes, code: str) -> None:
    async with connected(FakeService()) as client:
        client.writer.write(line)
        assert Error.from_event((await client.until(Error))[-1]).code == code
        assert await client.next() is None


async def test_unknown_events_are_dropped() -> None:
    async with connected(FakeService()) as client:
        client.writer.write(b'{"type": "detect", "data": {"names": ["ok"]}}\n')
        await client.send(Ping())
        assert [event.type for event in await client.until(Pong)] == ["pong"]


# --- The service, as the bridge reaches it


def answering(status: int, body: Any) -> RemoteService:
    transport = httpx.MockTransport(lambda request: httpx.Response(status, content=body))
    return RemoteService("http://service/v1/", "secret", transport)


async def test_lists_come_from_the_service_with_its_key() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"data": MODELS if request.url.path == "/v1/models" else VOICES})

    assert await RemoteService("http://service/v1/", "secret", httpx.MockTransport(answer)).catalogue() == CATALOGUE
    assert {request.url.path for request in asked} == {"/v1/models", "/v1/audio/voices"}
    assert {request.headers["authorization"] for request in asked} == {"Bearer secret"}


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (401, json.dumps({"error": {"message": "This service needs a key."}}), "Set MOTET_API_KEY"),
        (503, "<html>", "The service answered 503"),
        (200, "<html>", "is not a Motet service"),
        (200, "[]", "is not a Motet service"),
        (429, json.dumps({"error": {"message": "Too much.", "code": "queue_full"}}), "Too much"),
    ],
)
async def test_other_answers_are_errors(status: int, body: str, says: str) -> None:
    with pytest.raises(MotetError, match=says):
        await answering(status, body).catalogue()


async def test_a_service_that_does_not_answer_is_named() -> None:
    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(MotetError, match=r"http://service does not answer. Start it with motet serve"):
        await RemoteService("http://service", None, httpx.MockTransport(away)).catalogue()


class Opened:
    """The end of a WebSocket that was opened, whose `messages` fail at last."""

    def __init__(self, broken: Exception) -> None:
        self.broken = broken
        self.closed = False

    async def __aenter__(self) -> Opened:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True

    async def __aiter__(self) -> AsyncIterator[str]:
        yield "{}"
        raise self.broken


@pytest.mark.parametrize("error", [ConnectionResetError("the client left"), TimeoutError(), OSError("disk")])
async def test_what_fails_beside_a_session_is_not_taken_for_the_service(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Opened(error)
    monkeypatch.setattr(remote_service, "connect", lambda *_, **__: opened)
    with pytest.raises(type(error)):
        async with RemoteService("http://service", None).session("/v1/realtime"):
            raise error
    assert opened.closed


async def test_a_session_that_breaks_off_ended_early(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(ConnectionClosedError(None, None))
    monkeypatch.setattr(remote_service, "connect", lambda *_, **__: opened)
    with pytest.raises(MotetError, match="ended the session before its answer was complete"):
        async with RemoteService("http://service", None).session("/v1/realtime") as session:
            assert [message async for message in session.messages()] == [{}]


async def test_a_service_that_opens_no_session_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> Opened:
        raise ConnectionRefusedError

    monkeypatch.setattr(remote_service, "connect", refused)
    with pytest.raises(MotetError, match="does not answer"):
        async with RemoteService("http://service", None).session("/v1/realtime"):
            pass


def test_failures_of_a_session_keep_their_code() -> None:
    error: Mapping[str, Any] = {"message": "No.", "code": "voice_not_found", "param": "voice"}
    assert session_failure(error).code == "voice_not_found"
    assert session_failure("odd").message == "The service answered 503."
    assert refused(404, json.dumps({"error": error})).failure.kind == "not_found"


@pytest.mark.parametrize("url", ["service:8000", "ftp://service", "http://", ""])
def test_an_address_that_is_not_a_url_is_refused(url: str) -> None:
    with pytest.raises(MotetError, match="is not a URL"):
        RemoteService(url, None)


@pytest.mark.parametrize("address", ["stdio://", "tcp://0.0.0.0", "10300", "tcp://host:port", "http://host:1"])
def test_an_address_to_listen_at_is_checked(address: str) -> None:
    with pytest.raises(MotetError, match=r"Write tcp://0\.0\.0\.0:10300"):
        server_at(address)
