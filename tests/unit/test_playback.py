"""A stream between an engine and a socket, with a clock that jumps to the next event."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from itertools import pairwise

import numpy as np
import pytest

from deployments.engines.protocols import AudioChunk, FinishReason, Samples
from serve_app.gateway.settings import PRESETS, PacingSettings
from serve_app.gateway.speech.pacing import MOST_FACTOR
from serve_app.gateway.speech.playback import Frame, PlaybackBuffer
from tests.unit.jumping_clock import now, run

RATE = 8000
CHUNK_SECONDS = 0.2


class Engine:
    """A source of chunks. Before chunk `k` it takes `delays[k]` seconds; after the last it raises `error`, if any."""

    def __init__(
        self,
        count: int,
        *,
        delays: dict[int, float] | None = None,
        error: Exception | None = None,
        rate: int = RATE,
        piece_chunks: int = 1,
        slow_close_s: float = 0.0,
        reasons: dict[int, FinishReason] | None = None,
    ) -> None:
        random = np.random.default_rng(count)
        length = int(CHUNK_SECONDS * rate)
        self.chunks: list[Samples] = [random.uniform(-1, 1, length).astype(np.float32) for _ in range(count)]
        self.pulled, self.closed = 0, False
        self._delays, self._error, self._rate = delays or {}, error, rate
        self._piece_chunks, self._slow_close_s = piece_chunks, slow_close_s
        self._reasons = reasons or {}

    @property
    def samples(self) -> Samples:
        return np.concatenate(self.chunks)

    async def speak(self, first: int = 0) -> AsyncGenerator[AudioChunk]:
        try:
            for number, samples in enumerate(self.chunks):
                await asyncio.sleep(self._delays.get(number, 0.0))
                self.pulled += 1
                last = number == len(self.chunks) - 1
                reason = self._reasons.get(number, "stop")
                index = first + number // self._piece_chunks
                over = last or (number + 1) % self._piece_chunks == 0
                yield AudioChunk(samples, self._rate, index, "", last, finish_reason=reason, piece_over=over)
            if self._error:
                raise self._error
        finally:
            if self._slow_close_s:
                await asyncio.sleep(self._slow_close_s)
            self.closed = True


def paced(
    *, played: bool = True, fallback: Callable[[int], AsyncGenerator[AudioChunk]] | None = None, **settings: float
) -> PlaybackBuffer:
    return PlaybackBuffer(RATE, PacingSettings(**settings), played=played, fallback=fallback, clock=now)


async def frames_of(speech: PlaybackBuffer, chunks: AsyncGenerator[AudioChunk]) -> AsyncGenerator[Frame]:
    """All frames. Closing them stops the filling of the buffer."""
    async with speech.filled_from(chunks):
        while (frame := await speech.next_frame()) is not None:
            yield frame


async def read(speech: PlaybackBuffer, engine: Engine) -> list[tuple[float, Frame]]:
    """Every frame, with when it came."""
    return [(now(), frame) async for frame in frames_of(speech, engine.speak())]


def sound(frames: list[tuple[float, Frame]]) -> Samples:
    return np.concatenate([frame.samples for _, frame in frames])


@pytest.mark.parametrize("played", [False, True])
def test_what_comes_in_time_comes_out_unchanged(played: bool) -> None:
    async def test() -> None:
        engine, speech = Engine(20, delays=dict.fromkeys(range(20), 0.1)), paced(played=played)
        frames = await read(speech, engine)
        np.testing.assert_array_equal(sound(frames), engine.samples)
        assert speech.report.concealments == speech.report.underruns == 0
        assert speech.report.sent_seconds == pytest.approx(4.0)

    run(test)


def test_the_sound_is_converted_to_the_stream_rate_as_a_whole() -> None:
    async def test() -> None:
        frames = await read(paced(played=False), Engine(5, rate=2 * RATE))
        assert len(sound(frames)) == int(5 * CHUNK_SECONDS * RATE)

    run(test)


@pytest.mark.parametrize(("played", "chunks"), [(False, 5), (True, 5)])
def test_a_reader_that_stops_makes_the_engine_stop(played: bool, chunks: int) -> None:
    """One more chunk may wait to be written; a fast stream holds whole chunks."""

    async def test() -> None:
        engine, speech = Engine(1000), paced(played=played, capacity_ms=500.0, frame_ms=160.0)
        async with aclosing(frames_of(speech, engine.speak())) as frames:
            await anext(frames)
            await asyncio.sleep(1.0)
            asked = engine.pulled
            held = engine.pulled * CHUNK_SECONDS - speech.report.sent_seconds
            assert held <= 0.5 + (1 if played else 2) * CHUNK_SECONDS
            assert asked <= chunks
            await asyncio.sleep(3600.0)
            assert engine.pulled == asked
        assert engine.closed

    run(test)


def test_played_speech_is_never_sent_further_ahead_than_the_look_ahead() -> None:
    async def test() -> None:
        speech = paced(look_ahead_ms=1000.0, frame_ms=160.0)
        frames = await read(speech, Engine(100))
        sent = 0.0
        for when, frame in frames:
            sent += len(frame.samples) / RATE
            assert sent - (when - frames[0][0]) <= 1.0 * MOST_FACTOR + 1e-6
            if when > 2.0:
                assert sent - (when - frames[0][0]) <= 1.0 + 1e-6
        assert speech.report.underruns == 0
        assert frames[-1][0] > 20 - 2.0

    run(test)


def test_fast_speech_is_not_paced() -> None:
    async def test() -> None:
        frames = await read(paced(played=False), Engine(100))
        assert frames[-1][0] == 0.0

    run(test)


def test_a_late_chunk_is_concealed_once_its_budget_is_over() -> None:
    async def test() -> None:
        engine = Engine(2, delays={1: 1.0})
        speech = paced(frame_ms=200.0, chunk_budget_ms=200.0)
        frames = await read(speech, engine)
        times = [when for when, frame in frames if frame.concealed]
        # The listener is dry at 0.2 s and patient until 0.4 s; from then on the concealment has no gaps.
        assert times == pytest.approx([0.4, 0.6, 0.8])
        assert (speech.report.concealments, speech.report.underruns) == (3, 1)
        assert speech.report.concealed_seconds == pytest.approx(0.6)
        assert [frame.concealed for _, frame in frames] == [False, True, True, True, False]
        assert not speech.report.fallback

    run(test)


def test_before_its_first_sound_a_stream_is_not_concealed() -> None:
    async def test() -> None:
        speech = paced()
        await read(speech, Engine(1, delays={0: 60.0}))
        assert speech.report.concealments == 0

    run(test)


def test_fast_speech_is_not_concealed() -> None:
    async def test() -> None:
        speech = paced(played=False)
        np.testing.assert_array_equal(sound(await read(speech, engine := Engine(2, delays={1: 60.0}))), engine.samples)
        assert speech.report.concealments == 0

    run(test)


@pytest.mark.parametrize("played", [False, True])
def test_the_first_reason_why_a_piece_was_ended_is_kept(played: bool) -> None:
    async def test() -> None:
        speech = paced(played=played)
        await read(speech, Engine(6, reasons={1: "repetition", 3: "length", 5: "silence"}))
        assert speech.report.finish_reason == "repetition"

    run(test)


@pytest.mark.parametrize("slow_close_s", [0.0, 0.05, 30.0])
@pytest.mark.parametrize(("heard", "piece"), [(4, 2), (3, 1), (5, 2), (2, 1)])
def test_the_fallback_takes_over_with_the_piece_that_is_not_whole(heard: int, piece: int, slow_close_s: float) -> None:
    """One that was cut short is said again from its beginning: no words are lost. However long the late engine takes to
    let go."""

    async def test() -> None:
        late = Engine(6, delays={heard: 3600.0}, piece_chunks=2, slow_close_s=slow_close_s)
        other, asked = Engine(3, delays={0: 0.5}), list[int]()

        def fallback(piece: int) -> AsyncGenerator[AudioChunk]:
            asked.append(piece)
            return other.speak(piece)

        speech = paced(fallback=fallback, frame_ms=200.0, fallback_after_ms=2000.0)
        frames = await read(speech, late)
        assert asked == [piece]
        assert speech.report.fallback and speech.report.fallback_piece == piece
        assert late.closed and other.closed
        own = int(heard * CHUNK_SECONDS * RATE)
        np.testing.assert_array_equal(sound(frames)[:own], late.samples[:own])
        np.testing.assert_array_equal(sound(frames)[-2 * 1600 :], other.samples[-2 * 1600 :])
        first_of_other = next(b for (_, a), (b, f) in pairwise(frames) if a.concealed and not f.concealed)
        assert first_of_other == pytest.approx(heard * CHUNK_SECONDS + 2.0 + 0.5, abs=0.21)

    run(test)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_an_engine_that_is_far_ahead_is_heard_without_a_gap(preset: PacingSettings) -> None:
    """Its chunks are much longer than the ring, whose length is not a multiple of a frame."""

    async def test() -> None:
        speech = PlaybackBuffer(RATE, preset, played=True, clock=now)
        chunks = [Engine(1).samples.repeat(20) for _ in range(3)]

        async def speak() -> AsyncGenerator[AudioChunk]:
            for number, samples in enumerate(chunks):
                yield AudioChunk(samples, RATE, number, "", number == 2)

        lasts_until, frames = now(), 0
        async for frame in frames_of(speech, speak()):
            assert now() <= lasts_until or frames == 0
            lasts_until = max(lasts_until, now()) + len(frame.samples) / RATE
            frames += 1
        seconds = sum(map(len, chunks)) / RATE
        assert speech.report.underruns == speech.report.concealments == 0
        assert speech.report.sent_seconds == pytest.approx(seconds)
        assert frames == math.ceil(seconds * 1000 / preset.frame_ms)

    run(test)


def test_the_fallback_takes_over_from_an_engine_that_never_begins() -> None:
    async def test() -> None:
        silent, other, asked = Engine(3, delays={0: 3600.0}), Engine(3), list[int]()

        def fallback(piece: int) -> AsyncGenerator[AudioChunk]:
            asked.append(piece)
            return other.speak(piece)

        speech = paced(fallback=fallback, fallback_after_ms=2000.0)
        frames = await read(speech, silent)
        assert asked == [0]
        assert frames[0][0] == pytest.approx(2.0)
        np.testing.assert_array_equal(sound(frames), other.samples)
        assert speech.report.fallback
        assert speech.report.concealments == 0

    run(test)


def test_without_a_fallback_the_first_sound_is_waited_for() -> None:
    async def test() -> None:
        engine = Engine(3, delays={0: 3600.0})
        frames = await read(paced(fallback_after_ms=2000.0), engine)
        assert frames[0][0] == pytest.approx(3600.0)
        np.testing.assert_array_equal(sound(frames), engine.samples)

    run(test)


def test_the_report_tells_how_close_the_listener_came_to_running_dry() -> None:
    async def test() -> None:
        comfortable, close = paced(), paced()
        await read(comfortable, Engine(10))
        await read(close, Engine(10, delays={5: 1.1}))
        assert comfortable.report.least_lead_seconds is not None and close.report.least_lead_seconds is not None
        assert 0 <= close.report.least_lead_seconds < comfortable.report.least_lead_seconds

    run(test)


def test_short_gaps_do_not_add_up_to_a_fallback() -> None:
    async def test() -> None:
        def never(piece: int) -> AsyncGenerator[AudioChunk]:
            raise AssertionError(piece)

        speech = paced(fallback=never, fallback_after_ms=1000.0)
        await read(speech, Engine(20, delays=dict.fromkeys(range(20), 0.8)))
        assert speech.report.concealed_seconds > 1.0

    run(test)


@pytest.mark.parametrize("played", [False, True])
def test_the_engines_error_comes_after_the_sound_before_it(played: bool) -> None:
    async def test() -> None:
        engine, heard = Engine(10, error=ValueError("no more")), list[Samples]()
        with pytest.raises(ValueError, match="no more"):
            async for frame in frames_of(paced(played=played), engine.speak()):
                heard.append(frame.samples)
        np.testing.assert_array_equal(np.concatenate(heard), engine.samples)

    run(test)


@pytest.mark.parametrize("delays", [{}, {3: 3600.0}])
@pytest.mark.parametrize("played", [False, True])
def test_a_reader_that_leaves_closes_the_engine(played: bool, delays: dict[int, float]) -> None:
    async def test() -> None:
        engine = Engine(1000, delays=delays)
        async with aclosing(frames_of(paced(played=played), engine.speak())) as frames:
            await anext(frames)
        assert engine.closed

    run(test)


def test_a_reader_that_is_cancelled_closes_the_engine() -> None:
    async def test() -> None:
        engine = Engine(2, delays={1: 3600.0})
        reader = asyncio.create_task(read(paced(played=False), engine))
        await asyncio.sleep(1.0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert engine.closed

    run(test)


def test_how_long_the_sound_lasts_counts_what_is_buffered() -> None:
    async def test() -> None:
        speech = paced(frame_ms=160.0, capacity_ms=500.0)
        assert speech.buffered_seconds == 0.0
        async with aclosing(frames_of(speech, Engine(1000).speak())) as frames:
            await anext(frames)
            await asyncio.sleep(0.1)
            assert speech.buffered_seconds == pytest.approx(0.16 - 0.1 + 0.5)

    run(test)
