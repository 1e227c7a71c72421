"""One speech request with a model that is late: audio, voices, events, and what a client gets after it reconnects."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pytest

from cluster.models import Model
from deployments.audio.decode import decode_all
from deployments.audio.formats import AudioFormat
from deployments.audio.sample_encoder import SampleEncoder
from deployments.engines.protocols import AudioChunk, Samples, SpeechRequest, SpeechTraits
from deployments.errors import MotetError
from deployments.replica.wire import PackedChunk, pack
from deployments.tasks.piece_quality import QualitySettings
from deployments.text.piece import as_written
from deployments.text.sources import WholeText
from serve_app.config import AppConfig
from serve_app.gateway.deployment import directory_of
from serve_app.gateway.routing.admission import Admission, Ticket
from serve_app.gateway.settings import PacingSettings
from serve_app.gateway.speech.models import FallbackVoice
from serve_app.gateway.speech.pacing import MOST_FACTOR
from serve_app.gateway.speech.piece_cache import PieceCache
from serve_app.gateway.speech.plan import SpeechPlan
from serve_app.gateway.speech.resume import START, ResumePoint, resume_point
from serve_app.gateway.speech.source_map import SourcePosition
from serve_app.gateway.speech.stream import SpeechStream
from tests.unit.fakes import RATE, TRAITS, FakeHandle
from tests.unit.jumping_clock import now, run

CHUNK = int(0.2 * RATE)
CONFIG = AppConfig(models={"late": Model(engine="simulated"), "other": Model(engine="simulated")})
PIECES = ("This is the first of them.", "Here is the second one.", "And that was the third.")
PACING = PacingSettings(frame_ms=200.0, fallback_after_ms=2000.0)


def sound_of(voice: str, text: str, chunks: int = 4) -> Samples:
    """16-bit noise that depends on voice and text."""
    seed = np.frombuffer(f"{voice} {text}".encode(), np.uint8).tolist()
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, chunks * CHUNK)
    whole: Samples = (np.rint(samples * 32768) / 32768).astype(np.float32)
    return whole


@dataclass
class Late:
    """Says each piece in four chunks of 0.2 s; before chunk `c` of piece `p` it takes `delays[p, c]` seconds. Samples are
    `off` by at most that much, as in another batch."""

    voice: str
    delays: dict[tuple[int, int], float] = field(default_factory=dict)
    asked: list[SpeechRequest] = field(default_factory=list)
    off: float = 0.0

    async def speak(self, request: SpeechRequest) -> AsyncIterator[PackedChunk]:
        self.asked.append(request)
        for place, text in enumerate(request.pieces):
            index, parts = request.first_index + place, np.split(sound_of(self.voice, text), 4)
            for number, samples in enumerate(parts):
                await asyncio.sleep(self.delays.get((index, number), 0.0))
                over = number == len(parts) - 1
                last = over and place == len(request.pieces) - 1
                yield pack(AudioChunk(self._rounded(samples), RATE, index, text, last, piece_over=over))

    def _rounded(self, samples: Samples) -> Samples:
        otherwise = np.random.default_rng(0).integers(-1, 2, len(samples))
        return samples + (self.off * otherwise).astype(np.float32)


class Recorder:
    """Records nothing."""

    def stage(self, *_: Any) -> None: ...

    def first_sound(self, *_: Any) -> None: ...

    def played(self, *_: Any) -> None: ...

    def pieces_checked(self, *_: Any) -> None: ...

    def live_sessions(self, *_: Any) -> None: ...

    def final_text(self, *_: Any) -> None: ...


class Bench:
    """A late model, a fallback model, and the piece cache."""

    def __init__(self, delays: dict[tuple[int, int], float] | None = None) -> None:
        self.late, self.other = Late("ada", delays or {}), Late("bo")
        self.tickets: list[Ticket] = []
        handles: Any = {"late": {"cpu": FakeHandle(self.late)}, "other": {"cpu": FakeHandle(self.other)}}
        self._directory = directory_of(CONFIG, handles)
        self._admission = Admission(CONFIG.speech.admission)
        self._cache = PieceCache(CONFIG.speech.piece_cache_bytes)

    def stream(self, plan: SpeechPlan, resume: ResumePoint = START) -> SpeechStream:
        ticket = self._admission.admit(["late@cpu"], None, 1.0)
        self.tickets.append(ticket)
        return SpeechStream(plan, self._directory, self._cache, ticket, cast("Any", Recorder()), resume, clock=now)


def plan(
    pieces: tuple[str, ...] = PIECES,
    traits: SpeechTraits = TRAITS,
    *,
    form: AudioFormat = "pcm",
    fallback: bool = True,
    played: bool = True,
) -> SpeechPlan:
    return SpeechPlan(
        model="late",
        request=SpeechRequest((), "ada"),
        traits=traits,
        audio_format=form,
        audio_rate=None,
        loudness_lufs=None,
        pacing=PACING,
        text=WholeText(as_written(pieces)),
        played=played,
        max_request_seconds=1.0,
        fallback=FallbackVoice("other", "bo", TRAITS) if fallback else None,
        quality=QualitySettings(enabled=False),
    )


@dataclass(frozen=True, slots=True)
class Event:
    """One event as a client reads it."""

    id: str | None
    data: dict[str, Any]

    @property
    def audio(self) -> bytes:
        return base64.b64decode(self.data.get("audio", ""))


def event_of(text: bytes) -> Event:
    data, *rest = text.decode().strip().split("\n")
    return Event(rest[0].removeprefix("id: ") if rest else None, json.loads(data.removeprefix("data: ")))


async def events(stream: SpeechStream) -> list[Event]:
    async with aclosing(stream.events()) as sent:
        return [event_of(item) async for item in sent]


def sound_in(sent: list[Event]) -> Samples:
    return np.frombuffer(b"".join(event.audio for event in sent), "<i2").astype(np.float32) / np.float32(32768)


def spoken(voice: str, *texts: str) -> Samples:
    return np.concatenate([sound_of(voice, text) for text in texts])


def test_the_fallback_voice_repeats_the_cut_piece_and_an_event_reports_it() -> None:
    async def test() -> None:
        bench = Bench({(1, 2): 3600.0})
        sent = await events(bench.stream(plan()))
        own = np.concatenate([spoken("ada", PIECES[0]), spoken("ada", PIECES[1])[: 2 * CHUNK]])
        np.testing.assert_array_equal(sound_in(sent)[: len(own)], own)
        rest = spoken("bo", *PIECES[1:])
        np.testing.assert_array_equal(sound_in(sent)[-len(rest) + CHUNK :], rest[CHUNK:])  # its beginning fades in
        concealed = [event.data for event in sent if event.data["type"] == "speech.audio.concealed"]
        assert (concealed[0]["fallback"], concealed[0]["fallback_piece"]) == (False, None)
        assert (concealed[-1]["fallback"], concealed[-1]["fallback_piece"]) == (True, 1)
        assert [request.first_index for request in bench.other.asked] == [1, 2], "no more at once than of the model"

    run(test)


def test_a_piece_start_names_the_model_and_the_voice() -> None:
    async def test() -> None:
        stream = Bench({(1, 2): 3600.0}).stream(plan())
        async with aclosing(stream.encoded()) as encoded:
            starts = [piece async for _ in encoded for piece in stream.take_piece_starts()]
        said = [(piece.index, piece.model, piece.voice) for piece in starts]
        assert said == [(0, "late", "ada"), (1, "late", "ada"), (1, "other", "bo"), (2, "other", "bo")]

    run(test)


def test_an_encoder_that_cannot_be_closed_does_not_keep_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unclosable(SampleEncoder):
        def close(self) -> None:
            raise RuntimeError

    async def test() -> None:
        bench = Bench()
        stream = bench.stream(plan())
        with pytest.raises(RuntimeError):
            async with aclosing(stream.encoded()) as encoded:
                await anext(encoded)
        assert not bench.tickets[0].open

    monkeypatch.setattr(
        "serve_app.gateway.speech.stream.open_encoder", lambda *_, **__: Unclosable("pcm", RATE, RATE, 1)
    )
    run(test)


def test_a_fallback_from_the_start_is_reported() -> None:
    async def test() -> None:
        sent = await events(Bench({(0, 0): 3600.0}).stream(plan()))
        np.testing.assert_array_equal(sound_in(sent), spoken("bo", *PIECES))
        (concealed,) = [event.data for event in sent if event.data["type"] == "speech.audio.concealed"]
        assert (concealed["concealed_seconds"], concealed["fallback_piece"]) == (0.0, 0)

    run(test)


SCRIPT = ("Speaker 1: Good morning to you.", "Speaker 2: Is it? Speaker 1: It is.", "Speaker 1: Good night then.")


@pytest.mark.parametrize("speakers", [1, 2])
def test_a_fallback_voice_reads_the_words_of_a_script_without_marks(speakers: int) -> None:
    """A model with one speaker reads a script as plain text."""

    async def test() -> None:
        bench = Bench({(1, 0): 3600.0})
        await events(bench.stream(plan(SCRIPT, replace(TRAITS, most_speakers=speakers))))
        words = [piece for request in bench.other.asked for piece in request.pieces]
        assert words == (["Is it? It is.", "Good night then."] if speakers > 1 else list(SCRIPT[1:]))
        assert [request.first_index for request in bench.other.asked] == [1, 2]

    run(test)


def test_the_fallback_voice_has_the_requested_speed() -> None:
    async def test() -> None:
        bench = Bench({(0, 0): 3600.0})
        fast = plan()
        await events(bench.stream(replace(fast, request=replace(fast.request, speed=1.5))))
        assert {request.speed for request in bench.other.asked} == {1.5}

    run(test)


SPEECH = spoken("ada", *PIECES)
GAPS = {(0, 2): 1.5, (1, 0): 1.9, (2, 3): 1.8}


def samples_and_gaps(sent: list[Event]) -> tuple[int, int]:
    """Samples of pcm that were sent, and how many of them are concealed."""
    concealed = [event.data["concealed_seconds"] for event in sent if "concealed_seconds" in event.data]
    return len(sound_in(sent)), round((concealed or [0.0])[-1] * RATE)


async def resumed(bench: Bench, wanted: SpeechPlan, event_id: str | None) -> list[Event]:
    return await events(bench.stream(wanted, resume_point(event_id, wanted)))


def test_after_gaps_a_resumed_client_misses_nothing_and_gets_no_gap_again() -> None:
    async def test() -> None:
        bench, wanted = Bench(GAPS), plan(fallback=False)
        sent = await events(bench.stream(wanted))
        assert samples_and_gaps(sent)[1] > RATE
        at = [number for number, event in enumerate(sent) if event.id]
        for number, following in zip(at, [*at[1:], len(sent)], strict=True):
            samples, gaps = samples_and_gaps(sent[:following])
            again = await resumed(bench, wanted, sent[number].id)
            np.testing.assert_array_equal(sound_in(again), SPEECH[samples - gaps :])

    run(test)


def test_a_client_may_resume_twice() -> None:
    async def test() -> None:
        bench, wanted = Bench(GAPS), plan(fallback=False)
        first = await events(bench.stream(wanted))
        ids = [event.id for event in first if event.id]
        second = await resumed(bench, wanted, ids[-6])
        left = len(sound_in(second)) - len(second[0].audio) // 2
        third = await resumed(bench, wanted, second[0].id)
        np.testing.assert_array_equal(sound_in(third), SPEECH[len(SPEECH) - left :])

    run(test)


def test_sound_that_was_not_made_before_a_disconnect_is_requested_again() -> None:
    async def test() -> None:
        bench, wanted = Bench(GAPS), plan(fallback=False)
        samples, gap, last = 0, 0, None
        async with aclosing(bench.stream(wanted).events()) as sent:
            async for item in sent:
                event = event_of(item)
                samples += len(event.audio) // 2
                gap = round(event.data.get("concealed_seconds", gap / RATE) * RATE)
                last = event.id or last
                if gap and samples - gap > 6 * CHUNK:
                    break
        again = await resumed(bench, wanted, last)
        _, more_gaps = samples_and_gaps(again)
        assert len(sound_in(again)) - more_gaps == len(SPEECH) - (samples - gap)
        fades = RATE // 50
        np.testing.assert_array_equal(sound_in(again)[fades - CHUNK :], SPEECH[fades - CHUNK :])

    run(test)


@pytest.mark.parametrize("form", ["wav", "mp3", "opus", "aac", "flac"])
def test_after_a_gap_the_rest_can_be_appended_to_what_a_client_has(form: AudioFormat) -> None:
    """Together they are one file: no header in the middle, and no sound lost in a codec."""

    async def test() -> None:
        bench, wanted = Bench(GAPS), plan(form=form, fallback=False)
        sent = await events(bench.stream(wanted))
        gaps = next(event.data["concealed_seconds"] for event in reversed(sent) if "concealed_seconds" in event.data)
        ids = [number for number, event in enumerate(sent) if event.id and "." in event.id]
        for number in (ids[0], ids[len(ids) // 2], ids[-2]):
            again = await resumed(bench, wanted, sent[number].id)
            data = b"".join(event.audio for event in sent[: number + 1]) + b"".join(event.audio for event in again)
            samples = decode_all(data, RATE, True, 60.0)[0]
            most = len(SPEECH) + round(gaps * RATE)
            filled = {"mp3": 2 * 2304, "aac": 4 * 1024}.get(form, 0)  # by the beginning and the end of both streams
            assert len(SPEECH) <= len(samples) <= most + filled
            if form in ("wav", "flac"):
                rest = CHUNK - RATE // 50  # sound fades in after a gap, which may be just before the last chunk
                np.testing.assert_allclose(samples[-rest:], SPEECH[-rest:], atol=2**-14)

    run(test)


@pytest.mark.parametrize("form", ["pcm", "wav", "mp3", "opus", "aac", "flac"])
def test_a_client_that_has_everything_gets_only_the_done_event(form: AudioFormat) -> None:
    async def test() -> None:
        bench, wanted = Bench(GAPS), plan(form=form, fallback=False)
        sent = await events(bench.stream(wanted))
        again = await resumed(bench, wanted, [event.id for event in sent if event.id][-1])
        assert again[-1].data["type"] == "speech.audio.done"
        assert pieces_in(again) == []

    run(test)


@pytest.mark.parametrize("form", ["pcm", "wav", "mp3", "opus", "aac", "flac"])
def test_a_stream_without_gaps_resumes_byte_for_byte_with_any_pacing(form: AudioFormat) -> None:
    async def test() -> None:
        bench, wanted = Bench(), plan(form=form)
        sent = await events(bench.stream(wanted))
        ids = [number for number, event in enumerate(sent) if event.id]
        for number in (ids[0], ids[len(ids) // 2]):
            for played in (False, True):
                again = await resumed(bench, replace(wanted, played=played), sent[number].id)
                data = b"".join(event.audio for event in [*sent[: number + 1], *again])
                assert data == b"".join(event.audio for event in sent)

    run(test)


@pytest.mark.parametrize("form", ["mp3", "flac"])
def test_the_first_sound_is_timed_if_a_codec_holds_it_until_the_end(
    form: AudioFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def brief(request: SpeechRequest) -> AsyncIterator[PackedChunk]:
        yield pack(AudioChunk(np.full(80, 0.1, np.float32), RATE, 0, request.pieces[0], True, piece_over=True))

    async def test() -> None:
        bench = Bench()
        monkeypatch.setattr(bench.late, "speak", brief)
        sent = await events(bench.stream(plan(("Hm.",), form=form, played=False)))
        assert "first_sound" in sent[-1].data["timing"]

    run(test)


@pytest.mark.parametrize("form", ["pcm", "wav", "mp3", "opus", "aac", "flac"])
def test_a_model_that_is_not_exact_resumes_without_a_loss(form: AudioFormat) -> None:
    async def test() -> None:
        first, second = Bench(), Bench()
        second.late.off = 2**-15
        wanted = plan(traits=replace(TRAITS, exact=False), form=form)
        sent = await events(first.stream(wanted))
        ids = [number for number, event in enumerate(sent) if event.id]
        for number in (ids[0], ids[len(ids) // 2], ids[-2]):
            again = await resumed(second, wanted, sent[number].id)
            data = b"".join(event.audio for event in [*sent[: number + 1], *again])
            samples = decode_all(data, RATE, True, 60.0)[0] if form != "pcm" else np.frombuffer(data, "<i2") / 32768
            filled = {"mp3": 2 * 2304, "aac": 4 * 1024}.get(form, 0)  # by the beginning and the end of both streams
            assert len(SPEECH) <= len(samples) <= len(SPEECH) + filled
            if form in ("pcm", "wav", "flac"):
                np.testing.assert_allclose(samples, SPEECH, atol=2**-14)

    run(test)


def test_a_client_resumes_with_the_fallback_voice() -> None:
    async def test() -> None:
        bench, wanted = Bench({(1, 2): 3600.0}), plan()
        sent = await events(bench.stream(wanted))
        asked = len(bench.late.asked)
        rest = spoken("bo", *PIECES[1:])
        after = [number for number, event in enumerate(sent) if event.id and "1f" in event.id.partition("-")[2]]
        for number in after[:-1]:
            again = await resumed(bench, wanted, sent[number].id)
            left = sum(len(event.audio) for event in sent[number + 1 :]) // 2
            assert left > 0
            np.testing.assert_array_equal(sound_in(again), rest[len(rest) - left :])
        assert len(bench.late.asked) == asked, "who was late is not asked again"

    run(test)


def test_resuming_without_the_fallback_voice_is_refused() -> None:
    wanted = plan(fallback=False)
    with pytest.raises(MotetError) as caught:
        resume_point(f"{wanted.key}-1f1.100", wanted)
    assert caught.value.failure.kind == "unavailable"


@pytest.mark.parametrize(
    "where", ["", "1.", ".1", "3.0", "2f1.0", "1f3.0", "1f1", "f1.1", "-1", "1.1.1", "1", "1b", "b1", "9" * 19, "²"]
)
def test_a_position_outside_of_the_text_is_refused(where: str) -> None:
    wanted = plan()
    assert resume_point(f"{wanted.key}-2.5", wanted) == ResumePoint(position=SourcePosition(2, 5))
    with pytest.raises(MotetError) as caught:
        resume_point(f"{wanted.key}-{where}", wanted)
    assert caught.value.failure.code == "event_id_mismatch"


def pieces_in(sent: list[Event]) -> list[dict[str, Any]]:
    return [piece for event in sent for piece in event.data.get("pieces", [])]


def test_events_name_the_pieces_that_begin_and_when() -> None:
    async def test() -> None:
        for played in (False, True):
            sent = await events(Bench().stream(plan(played=played)))
            assert pieces_in(sent) == [
                {"index": index, "text": text, "start_seconds": pytest.approx(0.8 * index)}
                for index, text in enumerate(PIECES)
            ]
            assert "pieces" in sent[0].data

    run(test)


@pytest.mark.parametrize("speed", [0.3, 1.7, 3.0, 4.0])
@pytest.mark.parametrize("played", [False, True])
@pytest.mark.parametrize("form", ["pcm", "flac"])
def test_events_of_stretched_sound_name_the_pieces_that_begin(speed: float, played: bool, form: AudioFormat) -> None:
    async def test() -> None:
        wanted = plan(form=form, played=played, fallback=False)
        traits = replace(TRAITS, min_speed=1.0, max_speed=1.0)
        sent = await events(
            Bench().stream(replace(wanted, request=replace(wanted.request, speed=speed), traits=traits))
        )
        starts = [(piece["index"], piece["text"], piece["start_seconds"]) for piece in pieces_in(sent)]
        assert starts == [
            (index, text, pytest.approx(0.8 / speed * index, abs=0.001)) for index, text in enumerate(PIECES)
        ]

    run(test)


@pytest.mark.parametrize("form", ["mp3", "opus", "aac", "flac"])
def test_pieces_are_announced_when_the_encoder_releases_their_sound(form: AudioFormat) -> None:
    async def test() -> None:
        sent = await events(Bench().stream(plan(form=form)))
        assert [(piece["index"], piece["start_seconds"]) for piece in pieces_in(sent)] == [(0, 0.0), (1, 0.8), (2, 1.6)]
        for number, event in enumerate(sent):
            if number and "pieces" in event.data and form != "mp3":
                before = b"".join(earlier.audio for earlier in sent[:number])
                seconds = decode_all(before, RATE, True, 60.0).shape[1] / RATE
                filled = 1024 / RATE if form == "aac" else 0.0  # by the beginning of the stream
                assert seconds <= event.data["pieces"][0]["start_seconds"] + filled

    run(test)


def test_pieces_are_announced_on_time_after_gaps_and_again_for_the_fallback() -> None:
    async def test() -> None:
        bench, wanted = Bench({(0, 2): 0.7, (1, 2): 3600.0}), plan()
        sent = await events(bench.stream(wanted))
        assert [(piece["index"], piece["text"]) for piece in pieces_in(sent)] == [
            (index, PIECES[index]) for index in (0, 1, 1, 2)
        ]
        sound, starts = sound_in(sent), [round(piece["start_seconds"] * RATE) for piece in pieces_in(sent)]
        for start, (voice, text) in zip(
            starts, [("ada", PIECES[0]), ("ada", PIECES[1]), ("bo", PIECES[1])], strict=False
        ):
            fades = RATE // 50
            expected = sound_of(voice, text)[fades:CHUNK]
            np.testing.assert_array_equal(sound[start + fades : start + CHUNK], expected)

    run(test)


def half_of(sent: list[Event]) -> str:
    """The id in the middle."""
    ids = [event.id for event in sent if event.id]
    return ids[len(ids) // 2]


def test_only_sound_that_a_client_does_not_have_is_paced() -> None:
    """Sound that the client has may be late: it is neither concealed nor a reason for the fallback."""

    async def test() -> None:
        wanted = plan(PIECES * 5)
        event_id = half_of(await events(Bench().stream(wanted)))
        left = len(PIECES) * 5 * 0.8 - int(event_id.rpartition("b")[2]) / RATE
        for wait in (0.0, 7.0):
            began = now()
            times: list[float] = []
            bench = Bench({(0, 1): wait})
            async with aclosing(bench.stream(wanted, resume_point(event_id, wanted)).events()) as sent:
                async for _ in sent:
                    times.append(now() - began)
            assert times[0] == pytest.approx(wait)
            assert times[-1] - times[0] >= left - PACING.look_ahead_ms / 1000 * MOST_FACTOR
            assert not bench.other.asked

    run(test)


def test_after_a_resume_point_gaps_are_concealed_and_the_fallback_takes_over() -> None:
    async def test() -> None:
        wanted = plan()
        event_id = (await events(Bench().stream(wanted)))[1].id
        sent = await resumed(Bench({(0, 1): 7.0, (1, 2): 3600.0}), wanted, event_id)
        own = spoken("ada", *PIECES)[2 * CHUNK : 6 * CHUNK]
        np.testing.assert_array_equal(sound_in(sent)[: len(own)], own)
        rest = spoken("bo", *PIECES[1:])
        np.testing.assert_array_equal(sound_in(sent)[-len(rest) + CHUNK :], rest[CHUNK:])
        assert [(piece["index"], piece["text"]) for piece in pieces_in(sent)] == [
            (index, PIECES[index]) for index in (1, 1, 2)
        ]
        seconds = sent[-1].data["usage"]["audio_seconds"]
        assert seconds == pytest.approx(len(sound_in(sent)) / RATE, abs=1e-3)
        again = await resumed(Bench(), wanted, [event.id for event in sent if event.id][-2])
        np.testing.assert_array_equal(sound_in(again), rest[-len(sound_in(again)) :])

    run(test)


def test_a_fallback_begins_only_after_the_resume_point() -> None:
    async def test() -> None:
        wanted = plan()
        event_id = f"{wanted.key}-{2 * 4 * CHUNK}b{4 * CHUNK}"
        sent = await resumed(Bench({(1, 0): 3600.0}), wanted, event_id)
        np.testing.assert_array_equal(sound_in(sent), spoken("bo", *PIECES[1:]))

    run(test)


FORMS: tuple[AudioFormat, ...] = ("pcm", "wav", "mp3", "opus", "aac", "flac")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("delays", [{}, GAPS], ids=["bytes", "places"])
def test_a_resumed_stream_announces_the_pieces_after_the_resume_point(
    form: AudioFormat, delays: dict[tuple[int, int], float]
) -> None:
    """Each piece once, however often the client resumes."""

    async def test() -> None:
        bench, wanted = Bench(delays), plan(form=form, fallback=False)
        sent = await events(bench.stream(wanted))
        for number in [number for number, event in enumerate(sent) if event.id]:
            before = pieces_in(sent[: number + 1])
            for played in (False, True):
                again = pieces_in(await resumed(bench, replace(wanted, played=played), sent[number].id))
                assert [(piece["index"], piece["text"]) for piece in before + again] == list(enumerate(PIECES))

    run(test)


@pytest.mark.parametrize("played", [False, True])
def test_a_resumed_stream_counts_starts_from_the_resume_point(played: bool) -> None:
    async def test() -> None:
        for delays in ({}, GAPS):
            bench, wanted = Bench(delays), plan(fallback=False)
            sent = await events(bench.stream(wanted))
            for event in [event for event in sent if event.id]:
                again = await resumed(bench, replace(wanted, played=played), event.id)
                sound = sound_in(again)
                for piece in pieces_in(again):
                    start = round(piece["start_seconds"] * RATE)
                    own = sound_of("ada", piece["text"])
                    np.testing.assert_array_equal(sound[start : start + len(own)], own)
                assert again[-1].data["usage"]["audio_seconds"] == pytest.approx(len(sound) / RATE, abs=1e-3)
                assert again[-1].data["usage"]["input_tokens"] == sum(map(len, PIECES))

    run(test)


def test_a_piece_that_begins_at_the_resume_point_is_announced() -> None:
    async def test() -> None:
        wanted = plan(fallback=False)
        for where in (f"{2 * 4 * CHUNK}b{4 * CHUNK}", "1.0"):
            again = await resumed(Bench(), wanted, f"{wanted.key}-{where}")
            assert [(piece["index"], piece["start_seconds"]) for piece in pieces_in(again)] == [(1, 0.0), (2, 0.8)]

    run(test)
