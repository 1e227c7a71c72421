"""Turns of live sessions: the networks at an audio helper, the calls to it, and real speech through both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ray.exceptions import RayError

from deployments.audio import end_of_turn
from deployments.audio.end_of_turn import log_mel_energies, shared_end_of_turn
from deployments.audio.file_source import ByteSource
from deployments.audio.live_voice_activity import KEPT, LiveVoice
from deployments.audio.voice_activity import FRAME, SpeechProbabilities
from deployments.errors import Failure, MotetError
from deployments.replica.chunker import Chunker
from deployments.replica.live_turns import FORGOTTEN_S, LiveFrames, LiveTurns
from deployments.settings import RecordingSettings
from serve_app.gateway.live.turn_detection import TurnDetection
from serve_app.gateway.live.turn_rules import SoundSearched, SpeechPaused, SpeechStarted, SpeechStopped, TurnEvent
from serve_app.gateway.live.turn_settings import SemanticVad, ServerVad
from serve_app.gateway.live.voice_activity_calls import EVERY_S, VoiceActivityCalls
from tests.unit.recognition_engine_properties import spoken
from tests.unit.test_separation_graph import Remote

RATE = 16_000
WHOLE = "Could you tell me what time it is?"
UNFINISHED = "Please turn off the lights in the kitchen and"

Pcm = NDArray[np.int16]


@cache
def said(text: str) -> Pcm:
    """Spoken at 16 kHz, without the silence around it."""
    samples = spoken(text, RATE)
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    return np.rint(samples[loud[0] : loud[-1] + 1] * 32767).astype(np.int16)


def silence(seconds: float) -> Pcm:
    return np.zeros(int(seconds * RATE), np.int16)


def noisy(sound: Pcm, amplitude: float = 60.0) -> Pcm:
    noise = np.random.default_rng(0).standard_normal(len(sound)) * amplitude
    return np.clip(np.rint(sound + noise), -32768, 32767).astype(np.int16)


@cache
def conversation() -> Pcm:
    """Two sentences in faint noise, with pauses of a second and a half."""
    return noisy(np.concatenate([silence(1), said(WHOLE), silence(1.5), said(UNFINISHED), silence(1.5)]))


class Clock:
    """A clock that sleeps move."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.slept.append(seconds)
        await asyncio.sleep(0)


class Loud:
    """A helper for which a frame is speech if its first sample is not 0."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[str, int, int]]] = []
        self.closed: list[str] = []
        self.error: Exception | Failure | None = None
        self.over: float | Failure | None = 1.0

    async def find_speech(self, frames: Sequence[LiveFrames], closed: Sequence[str]) -> list[list[float]] | Failure:
        if isinstance(self.error, Exception):
            raise self.error
        if self.error:
            return self.error
        self.calls.append([(each.session, each.first_frame, len(each.sound) // 1024) for each in frames])
        self.closed += closed
        await asyncio.sleep(0)
        return [np.frombuffer(each.sound, "<i2").reshape(-1, FRAME)[:, 0].astype(float).tolist() for each in frames]

    async def judge_turn(self, session: str, start: int, end: int) -> float | Failure | None:
        return self.over


def calls_to(*helpers: Any) -> tuple[VoiceActivityCalls, Clock]:
    clock = Clock()
    return VoiceActivityCalls([Remote(each) for each in helpers], clock=clock, sleep=clock.sleep), clock


def frames_of(*levels: int) -> Pcm:
    return np.repeat(np.array(levels, np.int16), FRAME)


async def settle(turns: int = 200) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def taken(detection: TurnDetection, count: int) -> list[TurnEvent]:
    async with aclosing(detection.events()) as events:
        found = list[TurnEvent]()
        async for event in events:
            if not isinstance(event, SoundSearched):
                found.append(event)
            if len(found) == count:
                break
        return found


def turns_of(sound: Pcm, wanted: ServerVad | SemanticVad, blocks: Sequence[int]) -> list[TurnEvent]:
    """The events of a whole sound through a helper with the real networks, pushed in blocks."""

    async def run() -> list[TurnEvent]:
        calls, _ = calls_to(LiveTurns())
        detection = TurnDetection(calls, wanted)
        at = 0
        for block in [*blocks, len(sound)]:
            detection.push(sound[at : at + block])
            at += block
            await settle(3)
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks)
        await detection.close()
        events = [event async for event in detection.events()]
        searched = [event.at for event in events if isinstance(event, SoundSearched)]
        assert searched == sorted(searched)
        assert searched[-1] == len(sound) // FRAME * FRAME
        return [event for event in events if not isinstance(event, SoundSearched)]

    return asyncio.run(run())


def test_probabilities_are_those_of_recordings_and_of_each_session_alone() -> None:
    sounds = [said(WHOLE), said(UNFINISHED), conversation()]
    least = min(len(sound) for sound in sounds) // FRAME

    async def run() -> None:
        helper = LiveTurns()
        found: list[list[float]] = [[] for _ in sounds]
        at = 0
        for count in [1, 2, 3, 1, 7, 1, 1, least - 16]:
            frames = [
                LiveFrames(str(number), at, sound[at * FRAME : (at + count) * FRAME].tobytes())
                for number, sound in enumerate(sounds)
            ]
            answer = await helper.find_speech(frames, [])
            assert not isinstance(answer, Failure)
            for one, more in zip(found, answer, strict=True):
                one += more
            at += count
        for sound, one in zip(sounds, found, strict=True):
            alone = SpeechProbabilities().push(sound[: least * FRAME].astype(np.float32) / np.float32(32768))
            np.testing.assert_allclose(one, alone, atol=1e-5)
            assert max(one) > 0.9

    asyncio.run(run())


def test_a_helper_begins_anew_after_a_gap_and_forgets_what_is_closed_or_idle() -> None:
    async def run() -> None:
        clock = Clock()
        helper = LiveTurns(clock=clock)
        await helper.find_speech([LiveFrames("a", 7, frames_of(1, 1).tobytes())], [])
        assert await helper.judge_turn("a", 0, 7 * FRAME) is None
        assert helper._voices["a"].next_frame == 9
        await helper.find_speech([LiveFrames("a", 20, frames_of(1).tobytes()), LiveFrames("b", 0, b"")], [])
        assert helper._voices["a"].next_frame == 21
        assert len(helper._voices["a"].between(0, 21 * FRAME)) == FRAME
        await helper.find_speech([], ["a"])
        assert set(helper._voices) == {"b"}
        clock.now_s += FORGOTTEN_S + 1
        await helper.find_speech([LiveFrames("c", 0, frames_of(1).tobytes())], [])
        assert set(helper._voices) == {"c"}

    asyncio.run(run())


def test_sessions_do_not_wait_for_recordings_that_are_decoded() -> None:
    class Endless:
        def cut(self, file: ByteSource, settings: Any, *_: Any) -> Iterator[tuple[Any, Any]]:
            decoded.wait()
            yield from ()

        def held_bytes(self, *_: Any) -> int:
            return 0

    async def run() -> None:
        helper = Chunker(RecordingSettings(decoders=1))
        decoding = []
        for name in ("one", "two"):
            assert await helper.open(name, Endless(), None) is None
            decoding.append(asyncio.create_task(helper.next(name)))
        found = await helper.find_speech([LiveFrames("live", 0, frames_of(0, 0).tobytes())], [])
        assert not isinstance(found, Failure)
        assert max(found[0]) < 0.1
        assert await helper.judge_turn("live", 0, 2 * FRAME) is not None
        assert not any(each.done() for each in decoding)
        decoded.set()
        assert await asyncio.gather(*decoding) == [None, None]

    decoded = threading.Event()
    asyncio.run(run())


def test_a_session_keeps_the_sound_that_can_be_judged() -> None:
    voice = LiveVoice(3)
    block = np.arange(31 * FRAME, dtype=np.int16)
    for _ in range(30):
        voice.push(block)
    end = (3 + 30 * 31) * FRAME
    kept = voice.between(0, end)
    assert KEPT <= len(kept) <= KEPT + len(block)
    np.testing.assert_array_equal(voice.between(end - 100, end - 10) * 32768, block[-100:-10])


def test_mel_energies_are_those_of_whisper() -> None:
    """Values of `transformers.WhisperFeatureExtractor(chunk_length=8)` with `do_normalize` for the same 8 s."""
    sweep = np.sin(6e-5 * np.square(np.arange(24_000.0))).astype(np.float32)
    energies = log_mel_energies(sweep)
    assert energies.shape == (80, 800)
    assert [energies.sum(), np.square(energies).sum()] == pytest.approx([-8294.799, 3167.726], rel=1e-5)
    assert energies[[5, 79], [660, 795]] == pytest.approx([0.4215457, -0.1040874], abs=1e-4)
    assert np.array_equal(
        log_mel_energies(np.concatenate([np.ones(5, np.float32), np.pad(sweep, (104_000, 0))])), energies
    )


def test_whole_sentences_are_finished_and_others_are_not() -> None:
    def judged(text: str) -> float:
        sound = noisy(np.concatenate([silence(0.3), said(text), silence(0.2)]))
        return shared_end_of_turn().probability(sound.astype(np.float32) / np.float32(32768))

    assert min(judged(text) for text in (WHOLE, "Set a timer for ten minutes.", "Thank you, that is all.")) > 0.8
    assert max(judged(text) for text in (UNFINISHED, "So what I wanted to say is that", "I think that, um,")) < 0.2


def test_a_missing_wheel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_of_turn, "WHEEL", "no-such-wheel")
    with pytest.raises(MotetError, match="'no-such-wheel' is not installed"):
        shared_end_of_turn.__wrapped__()


def test_turns_of_real_speech_in_noise() -> None:
    started, paused, stopped, again, *_ = turns_of(conversation(), ServerVad(), [])
    assert isinstance(started, SpeechStarted)
    assert abs(started.at - RATE) < 0.15 * RATE
    assert started.start == started.at - 4800
    end = RATE + len(said(WHOLE))
    assert isinstance(paused, SpeechPaused)
    assert isinstance(stopped, SpeechStopped)
    assert abs(stopped.at - end) < 0.15 * RATE
    assert isinstance(again, SpeechStarted)


def test_a_sentence_that_goes_on_is_one_turn_if_it_is_judged() -> None:
    sound = noisy(np.concatenate([silence(0.5), said(UNFINISHED), silence(1), said(WHOLE), silence(1)]))
    by_silence, by_meaning = (turns_of(sound, wanted, []) for wanted in (ServerVad(), SemanticVad()))
    assert sum(isinstance(event, SpeechStopped) for event in by_silence) == 2
    assert [type(event) for event in by_meaning].count(SpeechStopped) == 1
    assert isinstance(by_meaning[-1], SpeechStopped)


@pytest.mark.parametrize("sound", ["hiss", "clicks", "hum"])
def test_noise_and_clicks_start_no_turn(sound: str) -> None:
    noise = np.random.default_rng(1).standard_normal(4 * RATE) * 300
    moments = np.arange(4 * RATE)
    made = {
        "hiss": noise,
        "clicks": noise * 30 * (moments % 8000 < 0.05 * RATE),
        "hum": 4000 * np.sin(2 * np.pi * 50 * moments / RATE),
    }[sound]
    assert turns_of(made.astype(np.int16), ServerVad(), []) == []


@settings(max_examples=5)
@given(blocks=st.lists(st.integers(1, 20_000), max_size=20))
@pytest.mark.parametrize("wanted", [ServerVad(), SemanticVad()])
def test_events_do_not_depend_on_blocks(wanted: ServerVad | SemanticVad, blocks: list[int]) -> None:
    assert turns_of(conversation(), wanted, blocks) == turns_of(conversation(), wanted, [])


def test_one_call_takes_what_all_sessions_pushed_a_frame_later() -> None:
    async def run() -> None:
        helper = Loud()
        calls, clock = calls_to(helper)
        detections = [TurnDetection(calls, ServerVad()) for _ in range(4)]
        for detection in detections:
            detection.push(frames_of(0))
        for detection in detections:
            detection.push(frames_of(1)[:-1])
        await settle(2)
        for detection in detections:
            detection.push(frames_of(1)[:1])
        for detection in detections:
            assert await taken(detection, 1) == [SpeechStarted(FRAME, 0)]
        assert [len(call) for call in helper.calls] == [4, 4]
        assert clock.slept[0] == pytest.approx(EVERY_S)

    asyncio.run(run())


@pytest.mark.parametrize(("takes_s", "every_s"), [(0.002, 0.032), (0.02, 0.05), (0.05, 0.064), (0.1, 0.1)])
def test_slow_calls_are_made_less_often(takes_s: float, every_s: float) -> None:
    class Slow(Loud):
        async def find_speech(self, frames: Sequence[LiveFrames], closed: Sequence[str]) -> list[list[float]] | Failure:
            clock.now_s += takes_s
            return await super().find_speech(frames, closed)

    async def run() -> None:
        detection = TurnDetection(calls, ServerVad())
        detection.push(frames_of(1))
        await settle()
        assert clock.now_s == pytest.approx(every_s)

    calls, clock = calls_to(Slow())
    asyncio.run(run())


def test_a_session_that_sends_much_at_once_shares_calls_with_others() -> None:
    async def run() -> None:
        helper = Loud()
        calls, _ = calls_to(helper)
        much, little = TurnDetection(calls, ServerVad()), TurnDetection(calls, ServerVad())
        much.push(frames_of(*[1] * 100))
        little.push(frames_of(1, 1))
        await settle()
        assert [count for call in helper.calls for _, _, count in call] == [32, 2, 32, 32, 4]

    asyncio.run(run())


def test_sessions_take_turns_at_helpers_and_leave_a_lost_one() -> None:
    async def run() -> None:
        first, second = Loud(), Loud()
        calls, _ = calls_to(first, second)
        detections = [TurnDetection(calls, ServerVad()) for _ in range(4)]
        for detection in detections:
            detection.push(frames_of(1))
        await settle()
        assert [len(first.calls[0]), len(second.calls[0])] == [2, 2]
        first.error = RayError("gone")
        for detection in detections:
            detection.push(frames_of(1))
        for detection in detections:
            assert await taken(detection, 1) == [SpeechStarted(0, 0)]

    asyncio.run(run())


def test_the_only_helper_comes_back_and_nothing_is_missing() -> None:
    async def run() -> None:
        helper = Loud()
        helper.error = RayError("restarting")
        calls, clock = calls_to(helper)
        detection = TurnDetection(calls, ServerVad())
        detection.push(frames_of(0, 1, 1))
        await settle(20)
        assert clock.now_s > 0
        assert detection.waiting_samples == 3 * FRAME
        helper.error = None
        assert await taken(detection, 1) == [SpeechStarted(FRAME, 0)]
        assert detection.waiting_samples == 0

    asyncio.run(run())


def test_a_failure_ends_the_events() -> None:
    async def run() -> None:
        helper = Loud()
        helper.error = Failure("engine", "broken")
        calls, _ = calls_to(helper)
        detection = TurnDetection(calls, ServerVad())
        detection.push(frames_of(1))
        with pytest.raises(MotetError, match="broken"):
            await taken(detection, 1)

    asyncio.run(run())


@pytest.mark.parametrize("over", [0.9, None])
def test_a_judgement_ends_the_turn(over: float | None) -> None:
    async def run() -> None:
        helper = Loud()
        helper.over = over
        calls, _ = calls_to(helper)
        detection = TurnDetection(calls, SemanticVad())
        detection.push(frames_of(1, 1, *[0] * (16 if over is None else 6)))
        expected = [SpeechStarted(0, 0), SpeechPaused(2 * FRAME), SpeechStopped(2 * FRAME)]
        assert await taken(detection, 3) == expected

    asyncio.run(run())


def test_a_judgement_that_fails_ends_the_events() -> None:
    async def run() -> None:
        helper = Loud()
        helper.over = Failure("unavailable", "no wheel")
        calls, _ = calls_to(helper)
        detection = TurnDetection(calls, SemanticVad())
        detection.push(frames_of(1, 1, *[0] * 6))
        with pytest.raises(MotetError, match="no wheel"):
            await taken(detection, 3)

    asyncio.run(run())


def test_what_is_closed_is_dropped_at_the_helper_and_nothing_runs_on() -> None:
    async def run() -> None:
        helper = Loud()
        calls, _ = calls_to(helper)
        detection = TurnDetection(calls, ServerVad())
        detection.push(frames_of(1, 1))
        await detection.close()
        await detection.close()
        assert [event async for event in detection.events()] == []
        await settle()
        assert len(helper.closed) == 1
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


def test_a_service_without_helpers_detects_no_turns() -> None:
    with pytest.raises(MotetError, match="does not detect turns"):
        TurnDetection(VoiceActivityCalls([]), ServerVad())
