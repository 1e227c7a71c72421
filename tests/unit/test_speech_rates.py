"""Streams at another sample rate and loudness than the model's: what leaves, what is resumed, and stated lengths."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import soundfile

from deployments.audio.encode import open_encoder
from deployments.audio.formats import FORMATS, AudioFormat
from deployments.audio.loudness import loudness_of
from deployments.audio.resample import resample, resampled_length
from deployments.engines.protocols import AudioChunk, SpeechRequest
from deployments.replica.wire import PackedChunk, pack
from serve_app.gateway.speech.plan import SpeechPlan
from serve_app.gateway.speech.stream import SpeechStream
from serve_app.gateway.sse import MAX_AUDIO_BYTES
from tests.unit.fakes import RATE, TRAITS
from tests.unit.jumping_clock import now, run
from tests.unit.test_speech_stream import (
    CHUNK,
    GAPS,
    PIECES,
    SPEECH,
    Bench,
    Event,
    events,
    half_of,
    pieces_in,
    plan,
    resumed,
    sound_in,
    sound_of,
)

RATES = (11_025, 16_000, 48_000)
PIECE = 4 * CHUNK


def at(rate: int, form: AudioFormat = "pcm", **options: Any) -> SpeechPlan:
    return replace(plan(form=form, **options), audio_rate=rate)


def data_in(sent: list[Event]) -> bytes:
    return b"".join(event.audio for event in sent)


def whole_file(form: AudioFormat, rate: int) -> bytes:
    encoder = open_encoder(form, RATE, sample_rate=rate)
    return encoder.encode(SPEECH) + encoder.finish()


async def file_of(stream: SpeechStream, whole_seconds: float = 0.0) -> list[bytes]:
    async with aclosing(stream.encoded(whole_seconds=whole_seconds)) as encoded:
        return [data async for data in encoded]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("form", FORMATS)
def test_a_stream_is_resampled_once_whatever_its_pacing(form: AudioFormat, rate: int) -> None:
    async def test() -> None:
        expected = whole_file(form, rate)
        header = len(expected) - len(whole_file("pcm", rate)) if form == "wav" else 0
        for played in (False, True):
            sent = data_in(await events(Bench().stream(at(rate, form, played=played))))
            assert len(sent) == len(expected)
            assert sent[header:] == expected[header:]

    run(test)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("form", FORMATS)
def test_a_resampled_stream_without_gaps_resumes_byte_for_byte(form: AudioFormat, rate: int) -> None:
    async def test() -> None:
        bench, wanted = Bench(), at(rate, form)
        sent = await events(bench.stream(wanted))
        ids = [number for number, event in enumerate(sent) if event.id]
        for number in (ids[0], ids[len(ids) // 3], ids[-2]):
            for played in (False, True):
                again = await resumed(bench, replace(wanted, played=played), sent[number].id)
                assert data_in([*sent[: number + 1], *again]) == data_in(sent)

    run(test)


def sample_of(event_id: str) -> int:
    """The model's sample at which an id continues."""
    piece, _, sample = event_id.partition("-")[2].partition(".")
    return int(piece) * PIECE + int(sample)


@pytest.mark.parametrize("rate", RATES)
def test_after_gaps_a_resumed_client_gets_exactly_the_rest(rate: int) -> None:
    """The position in the id is one of the model's samples, and the sound that was sent ends there."""

    async def test() -> None:
        bench, wanted = Bench(GAPS), at(rate, fallback=False)
        sent = await events(bench.stream(wanted))
        places = [number for number, event in enumerate(sent) if event.id and "." in event.id]
        assert len(places) > 3
        for number in places[:-1]:
            event_id = sent[number].id
            assert event_id
            again = await resumed(bench, wanted, event_id)
            rest = resample(SPEECH[sample_of(event_id) :], RATE, rate)
            np.testing.assert_allclose(sound_in(again), rest, atol=2**-15)
            gaps = [
                event.data["concealed_seconds"] for event in sent[: number + 2] if "concealed_seconds" in event.data
            ]
            before = len(data_in(sent[: number + 1])) / 2 / rate
            ahead = before - sample_of(event_id) / RATE
            assert -1 / RATE <= ahead <= gaps[-1] + 1 / RATE

    run(test)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("form", ["pcm", "mulaw", "flac", "wav_alaw"])
def test_pieces_begin_where_they_did_at_the_models_rate(form: AudioFormat, rate: int) -> None:
    async def test() -> None:
        for played in (False, True):
            sent = await events(Bench().stream(at(rate, form, played=played)))
            starts = [(piece["index"], piece["start_seconds"]) for piece in pieces_in(sent)]
            assert starts == [(0, 0.0), (1, 0.8), (2, 1.6)]

    run(test)


@pytest.mark.parametrize("form", FORMATS)
def test_no_event_is_too_long_for_simple_readers(form: AudioFormat) -> None:
    """Six times as many samples as the model makes, of noise that no codec compresses, from long chunks."""

    async def test() -> None:
        sent = await events(Bench().stream(at(48_000, form, played=False)))
        assert max(len(event.audio) for event in sent) <= MAX_AUDIO_BYTES

    run(test)


def test_a_resampled_stream_is_paced_by_its_seconds() -> None:
    async def test() -> None:
        lasted = []
        for rate in (RATE, 48_000):
            began = now()
            await events(Bench().stream(at(rate, pieces=PIECES * 4)))
            lasted.append(now() - began)
        assert lasted[0] == lasted[1] > 5.0

    run(test)


def test_an_id_belongs_to_a_rate_and_a_loudness() -> None:
    plans = [plan(), at(RATE), at(16_000), replace(plan(), loudness_lufs=-20.0), replace(plan(), loudness_lufs=-23.0)]
    assert len({each.key for each in plans}) == len(plans)


# --- Stated lengths


def flac_length(data: bytes) -> int:
    return int.from_bytes(data[18:26], "big") % 2**36


@pytest.mark.parametrize("rate", [None, 8000, 16_000, 44_100])
def test_a_flac_that_waits_for_its_end_says_its_length(rate: int | None) -> None:
    async def test() -> None:
        wanted = replace(plan(form="flac", played=False), audio_rate=rate)
        data = b"".join(await file_of(Bench().stream(wanted), whole_seconds=10.0))
        samples, own_rate = soundfile.read(io.BytesIO(data), dtype="float32")
        expected = resample(SPEECH, RATE, rate or RATE)
        assert own_rate == (rate or RATE)
        assert flac_length(data) == len(expected)
        np.testing.assert_allclose(samples, expected, atol=2**-15)

    run(test)


def test_a_flac_that_turns_out_to_be_long_does_not_wait() -> None:
    async def test() -> None:
        bench, began = Bench({(0, 2): 1.0, (2, 0): 3600.0}), now()
        async with aclosing(bench.stream(plan(form="flac", played=False)).encoded(whole_seconds=0.7)) as encoded:
            first = await anext(encoded)
        assert flac_length(first) == 0
        assert now() - began == 1.0

    run(test)


async def at_once(request: SpeechRequest) -> AsyncIterator[PackedChunk]:
    """Each piece is one chunk."""
    for place, text in enumerate(request.pieces):
        last = place == len(request.pieces) - 1
        yield pack(AudioChunk(sound_of("ada", text), RATE, request.first_index + place, text, last, piece_over=True))


def bench_with_one_chunk() -> Bench:
    bench = Bench()
    bench.late.speak = at_once  # type: ignore[method-assign]
    return bench


@pytest.mark.parametrize("played", [False, True])
@pytest.mark.parametrize("rate", [None, 16_000])
@pytest.mark.parametrize(("form", "at_byte"), [("wav", 40), ("wav_mulaw", 54), ("wav_alaw", 54)])
def test_a_wav_states_its_length_if_all_of_it_is_made(
    form: AudioFormat, at_byte: int, rate: int | None, played: bool
) -> None:
    async def test() -> None:
        wanted = replace(plan(PIECES[:1], form=form, played=played, fallback=False), audio_rate=rate)
        whole_in_buffer = replace(wanted, pacing=wanted.pacing.model_copy(update={"capacity_ms": 2000.0}))
        data = b"".join(await file_of(bench_with_one_chunk().stream(whole_in_buffer)))
        assert int.from_bytes(data[at_byte : at_byte + 4], "little") == len(data) - at_byte - 4
        assert int.from_bytes(data[4:8], "little") == len(data) - 8
        frames = resampled_length(PIECE, RATE, wanted.encoded_rate)
        info = soundfile.info(io.BytesIO(data))
        assert (info.samplerate, info.frames) == (wanted.encoded_rate, frames)

    run(test)


def test_a_wav_does_not_wait_for_its_length() -> None:
    async def test() -> None:
        began = now()
        async with aclosing(Bench({(0, 1): 1.0}).stream(plan(form="wav", played=False)).encoded()) as encoded:
            header = await anext(encoded)
        assert now() == began
        assert int.from_bytes(header[40:44], "little") == 2**31 - 1 - 45, "the largest that readers know"

    run(test)


# --- Loudness


def test_a_stream_is_brought_to_a_loudness_and_resumes_byte_for_byte() -> None:
    async def test() -> None:
        wanted = replace(plan(played=False), loudness_lufs=-30.0)
        sent = await events(Bench().stream(wanted))
        assert loudness_of(sound_in(sent), RATE) == pytest.approx(-30.0, abs=0.5)
        again = await resumed(Bench(), wanted, half_of(sent))
        assert data_in(sent).endswith(data_in(again))
        assert 0 < len(data_in(again)) < len(data_in(sent))

    run(test)


def test_the_fallback_voice_has_the_same_loudness() -> None:
    async def test() -> None:
        quiet = replace(plan(), loudness_lufs=-30.0)
        sent = await events(Bench({(1, 2): 3600.0}).stream(quiet))
        assert loudness_of(sound_in(sent)[-2 * PIECE :], RATE) == pytest.approx(-30.0, abs=0.5)

    run(test)


def test_length_and_positions_do_not_depend_on_the_loudness() -> None:
    async def test() -> None:
        plain = await events(Bench().stream(plan(played=False)))
        levelled = await events(Bench().stream(replace(plan(played=False), loudness_lufs=-16.0)))
        assert pieces_in(plain) == pieces_in(levelled)
        assert len(data_in(plain)) == len(data_in(levelled))
        assert resampled_length(len(SPEECH), RATE, RATE) == len(SPEECH)
        assert TRAITS.sample_rate == RATE

    run(test)
