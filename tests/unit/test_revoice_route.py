"""Another voice over HTTP, over stand-ins for replicas: what is said where, what is refused, and what is freed."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.engines.protocols import Samples, Segment, SeparationTraits, SpeechRequest, Transcript, Word
from deployments.errors import fail
from deployments.replica.wire import PackedChunk
from deployments.tasks.diarization import SpeakerTurn
from deployments.tasks.separation import Merged
from deployments.tasks.transcription import TranscriptionTask, TranscriptWindow
from serve_app.gateway.routing.admission import Ticket
from tests.unit.fakes import RATE, ToneSynthesizer, tone
from tests.unit.test_api import Bench, Ear, Splitter

PATH = "/v1/audio/revoice"
SENTENCES = ["Hello there, this is one.", "And here comes the second.", "The end."]
STARTS_S = (1.0, 3.0, 40.0)
RECORDING_S = 45.0
LEVEL = 0.01
TURNS = (SpeakerTurn(1.0, 2.0, "A"), SpeakerTurn(3.0, 4.0, "B"), SpeakerTurn(40.0, 41.0, "A"))


class TalkingEar(Ear):
    """Hears `SENTENCES`, each a second long, in windows of 15 s."""

    def __init__(self, language: str = "en", fails_after: int | None = None, speaks: bool = True) -> None:
        super().__init__()
        self.language = language
        self.fails_after = fails_after
        self.speaks = speaks
        self.ended = 0

    async def run(
        self, upload: AsyncIterator[bytes], task: TranscriptionTask, _: object, ticket: Ticket, __: str
    ) -> AsyncIterator[TranscriptWindow]:
        self.tasks.append(task)
        try:
            async for _block in upload:
                pass
            for number, until_s in enumerate((15.0, 30.0, RECORDING_S)):
                if number == self.fails_after:
                    raise fail("engine", "The ear broke.")
                found = [self._segment(at) for at, start in enumerate(STARTS_S) if until_s - 15 <= start < until_s]
                transcript = Transcript(tuple(found) if self.speaks else (), self.language)
                turns = TURNS if task.speakers and until_s == RECORDING_S else ()
                yield TranscriptWindow(transcript, until_s, turns=turns)
            ticket.complete()
        finally:
            self.ended += 1
            ticket.close()

    def _segment(self, at: int) -> Segment:
        start, text = STARTS_S[at], SENTENCES[at]
        return Segment(text, start, start + 1, 0.0, 0.0, words=(Word(f" {text}", start, start + 1, 1.0),))


class NoisyGraph:
    """The separation graph's call: stereo noise behind loud speech, in parts of 2 s."""

    def __init__(self) -> None:
        self.ended = 0

    async def run(self, upload: AsyncIterator[bytes], *_: object) -> AsyncIterator[Merged]:
        source = np.random.default_rng(0)
        try:
            async for _block in upload:
                pass
            for _part in range(round(RECORDING_S / 2)):
                rows = source.standard_normal((2, 2 * RATE)).astype(np.float32) * LEVEL
                yield Merged({"speech": np.ones_like(rows), "background": rows}, RATE)
            yield Merged({"background": np.zeros((2, RATE), np.float32)}, RATE)
        finally:
            self.ended += 1


class OneStem(Splitter):
    """A separation model that gives only the speech."""

    async def traits(self) -> SeparationTraits:
        return SeparationTraits((RATE,), ("speech",), takes_description=False, takes_reference=False)


async def sent(bench: Bench, /, **fields: Any) -> httpx.Response:
    """The answer to a recording. Nothing of it is left."""
    data = {"response_format": "pcm", **fields}
    answer = await bench.client.post(PATH, data=data, files={"file": bytes(16_000)})
    assert all(queue.open == 0 for queue in bench.admission.snapshot().values())
    return answer


def heard(data: bytes, channels: int = 1) -> Samples:
    rows: Samples = np.frombuffer(data, "<i2").reshape(-1, channels).T.astype(np.float32) / np.float32(32767)
    return rows


def events_in(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]


def said_at(sound: Samples, start_s: float, text: str) -> bool:
    """Whether the voice says a text there."""
    expected = tone(text)
    start = round(start_s * RATE)
    found = sound[start : start + len(expected)]
    # The tone begins up to two frames of 20 ms before the place where its silence was cut.
    best = max(float(np.corrcoef(np.roll(found, shift), expected)[0, 1]) for shift in range(-40, 41))
    return best > 0.9


async def test_the_words_are_spoken_where_they_were_said() -> None:
    bench = Bench(ear=TalkingEar())
    answer = await sent(bench)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/pcm")
    assert (answer.headers["x-motet-model"], answer.headers["x-motet-voice"]) == ("tone", "ada")
    assert (answer.headers["x-sample-rate"], answer.headers["x-motet-placement"]) == (str(RATE), "tone@cpu")
    assert "total;dur=" in answer.headers["server-timing"]
    sound = heard(answer.content)[0]
    assert len(sound) == RECORDING_S * RATE
    for start_s, text in zip(STARTS_S, SENTENCES, strict=True):
        assert said_at(sound, start_s, text)
    assert not sound[:RATE].any()
    assert not sound[5 * RATE : 39 * RATE].any()


async def test_events_say_what_is_spoken_where() -> None:
    bench = Bench(ear=TalkingEar())
    plain = await sent(bench, voice="bo")
    found = events_in((await sent(bench, voice="bo", stream_format="sse")).text)
    phrases = [each for each in found if each["type"] == "revoice.phrase"]
    assert [(each["index"], each["text"], each["start"]) for each in phrases] == [
        (at, text, start) for at, (text, start) in enumerate(zip(SENTENCES, STARTS_S, strict=True))
    ]
    assert all(each["spoken"] and each["speed"] == 1.0 and each["drift"] == 0.0 for each in phrases)
    assert all(each["spoken_start"] == each["start"] < each["spoken_end"] for each in phrases)
    deltas = [each for each in found if each["type"] == "revoice.audio.delta"]
    assert b"".join(base64.b64decode(each["audio"]) for each in deltas) == plain.content
    done = found[-1]
    assert done["type"] == "revoice.audio.done"
    assert (done["duration"], done["recording_duration"], done["phrases"]) == (RECORDING_S, RECORDING_S, 3)
    assert (done["max_speed"], done["max_drift"], done["unspoken_phrases"]) == (1.0, 0.0, 0)


async def test_a_long_phrase_is_spoken_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(ear=TalkingEar())
    long = "x" * 230  # 2.3 s
    monkeypatch.setattr("tests.unit.test_revoice_route.SENTENCES", [long, *SENTENCES[1:]])
    phrases = [
        each
        for each in events_in((await sent(bench, stream_format="sse", max_speed="2")).text)
        if each["type"] == "revoice.phrase"
    ]
    assert phrases[0]["speed"] == pytest.approx(2.3 / 1.9, abs=0.03)
    assert phrases[1]["drift"] == 0.0
    slow = [
        each
        for each in events_in((await sent(bench, stream_format="sse", max_speed="1")).text)
        if each["type"] == "revoice.phrase"
    ]
    assert slow[0]["speed"] == 1.0
    assert slow[1]["drift"] == pytest.approx(2.3 + 0.1 - 2.0, abs=0.05)
    assert slow[2]["drift"] == 0.0


async def test_the_background_stays_if_it_is_asked_for() -> None:
    graph = NoisyGraph()
    bench = Bench(ear=TalkingEar(), graph=graph, separator=Splitter())
    answer = await sent(bench, background="keep")
    assert answer.status_code == 200
    sound = heard(answer.content, channels=2)
    assert sound.shape == (2, RECORDING_S * RATE)
    assert np.std(sound[:, 10 * RATE : 38 * RATE]) == pytest.approx(LEVEL, rel=0.05)
    assert said_at(sound[0], STARTS_S[0], SENTENCES[0])
    assert graph.ended == 1
    dropped = await sent(bench)
    assert len(dropped.content) == len(answer.content) / 2
    assert graph.ended == 1


@pytest.mark.parametrize("voices", [{"speaker_voices": '{"B": "bo"}'}, {"speaker_voices[B]": "bo"}])
async def test_each_speaker_has_a_voice(voices: dict[str, str]) -> None:
    bench = Bench(ear=TalkingEar())
    found = events_in((await sent(bench, stream_format="sse", **voices)).text)
    assert [each["speaker"] for each in found if each["type"] == "revoice.phrase"] == ["A", "B", "A"]
    asked = [arguments[0] for name, arguments in bench.handle.calls if name == "speak"]
    assert [(request.voice, request.pieces) for request in asked] == [
        (voice, (text,)) for voice, text in zip(("ada", "bo", "ada"), SENTENCES, strict=True)
    ]


async def test_the_recogniser_is_asked_for_english() -> None:
    ear = TalkingEar("de")
    answer = await sent(Bench(ear=ear), translate="true", language="german")
    assert answer.status_code == 200
    (options,) = ear.asked
    assert (options.translate, options.language, options.word_times) == (True, "de", True)


@pytest.mark.parametrize(
    ("ear", "fields", "status", "param", "code"),
    [
        (TalkingEar(speaks=False), {}, 400, "file", "no_speech"),
        (TalkingEar("de"), {}, 400, "voice", "language_not_supported"),
        (TalkingEar(), {"language": "de"}, 400, "voice", "language_not_supported"),
        (TalkingEar(), {"language": "fr"}, 400, "language", None),
        (TalkingEar(), {"language": "klingon"}, 400, "language", "unknown_language"),
        (TalkingEar(), {"voice": "eve"}, 404, "voice", "voice_not_found"),
        (TalkingEar(), {"voice": "voice_" + "0" * 32}, 400, "voice", "voice_not_supported"),
        (TalkingEar(), {"speaker_voices": '{"A": "eve"}'}, 404, "voice", "voice_not_found"),
        (TalkingEar(), {"speaker_voices": '{"A": '}, 400, "speaker_voices", None),
        (TalkingEar(), {"speaker_voices": "ada"}, 400, "speaker_voices", None),
        (TalkingEar(), {"model": "ear"}, 404, "model", "model_not_found"),
        (TalkingEar(), {"transcription_model": "tone"}, 404, "transcription_model", "model_not_found"),
        (TalkingEar(), {"background": "keep", "separation_model": "x"}, 404, "separation_model", "model_not_found"),
        (TalkingEar(), {"background": "loud"}, 400, "background", None),
        (TalkingEar(), {"max_speed": "3"}, 400, "max_speed", None),
        (TalkingEar(), {"backgrund": "keep"}, 400, "backgrund", None),
        (TalkingEar(fails_after=0), {}, 500, None, None),
    ],
)
async def test_what_cannot_be_done_is_refused(
    ear: TalkingEar, fields: dict[str, str], status: int, param: str | None, code: str | None
) -> None:
    bench = Bench(ear=ear, graph=NoisyGraph(), separator=Splitter())
    answer = await sent(bench, **fields)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert code is None or error["code"] == code


async def test_a_model_without_a_background_is_refused() -> None:
    bench = Bench(ear=TalkingEar(), graph=NoisyGraph(), separator=OneStem())
    answer = await sent(bench, background="keep")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "separation_model")


async def test_each_queue_may_refuse() -> None:
    bench = Bench(ear=TalkingEar(), graph=NoisyGraph(), separator=Splitter())
    for model in ("ear", "tone", "echo"):
        full = bench.admission.admit([f"{model}@cpu"], None, 1e6)
        data = {"background": "keep"}
        answer = await bench.client.post(PATH, data=data, files={"file": bytes(60 * 16_000)})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
        full.close()
        assert all(queue.open == 0 for queue in bench.admission.snapshot().values())


class CountingSynthesizer(ToneSynthesizer):
    """Counts requests that are open at once. The first one waits for the others, and ends last."""

    def __init__(self, waits_for: int) -> None:
        super().__init__()
        self.waits_for = waits_for
        self.open = self.most_open = self.begun = 0
        self.started, self.others = asyncio.Event(), asyncio.Event()

    async def speak(self, request: SpeechRequest) -> AsyncIterator[PackedChunk]:
        self.begun += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        self.started.set()
        first = self.begun == 1
        if self.begun >= self.waits_for:
            self.others.set()
        try:
            if first:
                await self.others.wait()
            async for chunk in super().speak(request):
                yield chunk
        finally:
            self.open -= 1


async def test_phrases_are_spoken_at_once_and_come_in_order() -> None:
    synthesizer = CountingSynthesizer(waits_for=2)
    bench = Bench(synthesizer, ear=TalkingEar(), revoicing={"phrases_in_flight": 2})
    found = events_in((await sent(bench, stream_format="sse")).text)
    assert [each["index"] for each in found if each["type"] == "revoice.phrase"] == [0, 1, 2]
    assert synthesizer.most_open == 2
    assert synthesizer.open == 0


class LosingSynthesizer(ToneSynthesizer):
    """Breaks in its first request."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0

    async def speak(self, request: SpeechRequest) -> AsyncIterator[Any]:
        self.begun += 1
        if self.begun == 1:
            yield fail("engine", "The voice broke.").failure
            return
        async for chunk in super().speak(request):
            yield chunk


async def test_a_phrase_that_failed_is_made_once_more() -> None:
    synthesizer = LosingSynthesizer()
    answer = await sent(Bench(synthesizer, ear=TalkingEar()))
    assert answer.status_code == 200
    assert len(heard(answer.content)[0]) == RECORDING_S * RATE
    assert synthesizer.begun == len(SENTENCES) + 1


async def test_a_failure_after_the_first_sound_is_an_event() -> None:
    bench = Bench(ear=TalkingEar(fails_after=2))
    found = events_in((await sent(bench, stream_format="sse")).text)
    assert found[-1]["type"] == "error"
    assert [each["index"] for each in found if each["type"] == "revoice.phrase"] == [0, 1]


async def test_a_client_that_leaves_frees_everything() -> None:
    synthesizer, graph, ear = CountingSynthesizer(waits_for=99), NoisyGraph(), TalkingEar()
    bench = Bench(synthesizer, ear=ear, graph=graph, separator=Splitter())
    request = asyncio.create_task(bench.client.post(PATH, data={"background": "keep"}, files={"file": bytes(16_000)}))
    await synthesizer.started.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    for _ in range(100):
        await asyncio.sleep(0)
    assert synthesizer.open == 0
    assert ear.ended == 1
    assert graph.ended == 1
    assert all(queue.open == 0 for queue in bench.admission.snapshot().values())
