"""Pauses in which no text is available: audio is not late then. The clock jumps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest

from deployments.engines.protocols import AudioChunk
from deployments.settings import ArrivalSettings, PieceSettings
from deployments.text.segmentation import Cutter
from deployments.text.sources import ArrivingText
from serve_app.gateway.speech.playback import Frame, PlaybackBuffer
from serve_app.gateway.speech.stream import SpeechStream
from tests.unit import test_speech_stream as streams
from tests.unit.jumping_clock import now, run
from tests.unit.test_playback import CHUNK_SECONDS, Engine, frames_of, paced, sound

FALLBACK_S = 2.0


async def with_pause(
    speech: PlaybackBuffer, before: Engine, after: Engine, pause_s: float, start_s: float = 0.0
) -> list[tuple[float, Frame]]:
    """The frames of two texts with a pause between them; the second takes `start_s` to begin."""

    async def chunks() -> AsyncGenerator[AudioChunk]:
        async for chunk in before.speak():
            yield replace(chunk, last=False)
        with speech.pause():
            await asyncio.sleep(pause_s)
        await asyncio.sleep(start_s)
        async for chunk in after.speak(1):
            yield chunk

    async with aclosing(frames_of(speech, chunks())) as frames:
        return [(now(), frame) async for frame in frames]


@pytest.mark.parametrize("played", [False, True])
@pytest.mark.parametrize("pause_s", [0.1, 5.0, 3600.0])
def test_a_pause_is_no_gap(played: bool, pause_s: float) -> None:
    async def test() -> None:
        speech, before, after = paced(played=played, fallback=lambda _: Engine(1).speak()), Engine(5), Engine(5)
        frames = await with_pause(speech, before, after, pause_s)
        np.testing.assert_array_equal(sound(frames), np.concatenate([before.samples, after.samples]))
        report = speech.report
        assert (report.concealments, report.underruns, report.fallback) == (0, 0, False)

    run(test)


def test_the_last_sound_before_a_pause_does_not_wait_for_a_whole_frame() -> None:
    async def test() -> None:
        speech, before = paced(frame_ms=160.0), Engine(3)
        frames = await with_pause(speech, before, Engine(3), 3600.0)
        sent = 0.0
        for when, frame in frames:
            if when < 3600:
                sent += len(frame.samples)
        assert sent == len(before.samples)

    run(test)


@pytest.mark.parametrize(("start_s", "another"), [(FALLBACK_S - 0.1, False), (FALLBACK_S + 0.1, True)])
def test_after_a_pause_the_engine_has_as_long_as_for_its_first_sound(start_s: float, another: bool) -> None:
    async def test() -> None:
        speech = paced(fallback=lambda _: Engine(2).speak(1), fallback_after_ms=FALLBACK_S * 1000)
        frames = await with_pause(speech, Engine(5), Engine(5), 60.0, start_s)
        assert speech.report.fallback is another
        assert speech.report.concealments == speech.report.underruns == 0
        assert frames[-1][0] >= 60.0 + min(start_s, FALLBACK_S)

    run(test)


def test_a_pause_that_the_listener_does_not_notice_changes_nothing() -> None:
    """Text arrived before the sound ran out: a later gap is concealed as usual."""

    async def test() -> None:
        speech = paced(chunk_budget_ms=200.0)
        lead_s = 5 * CHUNK_SECONDS
        await with_pause(speech, Engine(5), Engine(5), lead_s / 2, lead_s)
        assert speech.report.concealments > 0

    run(test)


def test_a_listener_in_a_pause_is_as_urgent_as_one_who_has_no_sound_yet() -> None:
    async def test() -> None:
        speech, lasted = paced(played=False), list[float]()

        async def chunks() -> AsyncGenerator[AudioChunk]:
            async for chunk in Engine(2).speak():
                yield chunk
            with speech.pause():
                await asyncio.sleep(60)
            lasted.append(speech.buffered_seconds)

        async with aclosing(frames_of(speech, chunks())) as frames:
            async for _ in frames:
                pass
        assert lasted == [0.0]

    run(test)


def arriving() -> ArrivingText:
    pieces = PieceSettings(first_piece_characters=80, piece_characters=250)
    return ArrivingText(Cutter(pieces), ArrivalSettings(max_characters=1000, pause_s=60.0, idle_s=600.0))


async def events_of(stream: SpeechStream, text: ArrivingText, pause_s: float) -> list[streams.Event]:
    """The events of a stream whose text is written piece by piece, with pauses between."""

    async def write() -> None:
        for piece in streams.PIECES:
            await asyncio.sleep(pause_s)
            text.write(piece)
            text.flush()
        text.end()

    writing = asyncio.create_task(write())
    sent = await streams.events(stream)
    await writing
    return sent


def test_a_played_stream_waits_for_its_writer_without_a_fallback() -> None:
    async def test() -> None:
        bench, text = streams.Bench(), arriving()
        sent = await events_of(bench.stream(replace(streams.plan(()), text=text)), text, 30.0)
        np.testing.assert_array_equal(streams.sound_in(sent), streams.spoken("ada", *streams.PIECES))
        assert {event.data["type"] for event in sent} == {"speech.audio.delta", "speech.audio.done"}
        starts = [piece["text"] for event in sent for piece in event.data.get("pieces", ())]
        assert starts == list(streams.PIECES)
        assert now() >= 90.0

    run(test)


def test_a_fallback_voice_waits_for_the_writer() -> None:
    async def test() -> None:
        bench, text = streams.Bench({(1, 2): 3600.0}), arriving()
        sent = await events_of(bench.stream(replace(streams.plan(()), text=text)), text, 30.0)
        trouble = [event.data for event in sent if event.data["type"] == "speech.audio.concealed"]
        assert trouble[-1]["fallback_piece"] == 1
        rest = streams.spoken("bo", streams.PIECES[2])
        np.testing.assert_array_equal(streams.sound_in(sent)[-len(rest) :], rest)
        assert trouble[-1]["concealed_seconds"] < 10, "the pause before the third piece is no gap"

    run(test)


def test_no_engine_owes_sound_to_a_stream_that_waits_for_its_writer() -> None:
    async def test() -> None:
        bench, text = streams.Bench(), arriving()
        stream = bench.stream(replace(streams.plan((), played=False), text=text))
        reading = asyncio.create_task(events_of(stream, text, 30.0))
        await asyncio.sleep(45)
        (ticket,) = bench.tickets
        assert ticket.made_seconds > 0 and not ticket.waits
        await reading

    run(test)
