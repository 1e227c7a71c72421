"""Noise out of a sound while it is recorded: streams at a replica, the client's samples, lost replicas, and the WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayActorError
from ray.serve.exceptions import ReplicaUnavailableError

from cluster import ray_private
from deployments.engines.enhancement import StreamingEnhancement
from deployments.engines.protocols import LiveBlocks, Samples, SeparationTraits
from deployments.errors import Failure, MotetError
from deployments.replica.enhancement_streams import (
    IDLE_S,
    MOST_STREAMS,
    Checkpoint,
    EnhancedAnswer,
    EnhancedSound,
    EnhancementStreams,
)
from serve_app.gateway.deployment import live_enhancements
from serve_app.gateway.enhancement_load import EnhancementLoad
from serve_app.gateway.enhancement_sound import EnhancementSound
from serve_app.gateway.live_enhancement import LiveEnhancement
from serve_app.gateway.settings import EnhancementSettings
from tests.unit.fakes import FakeHandle
from tests.unit.test_api import Bench
from tests.unit.test_speech_sessions import Socket, in_time

RATE = 8000
BLOCKS = LiveBlocks(RATE, block_samples=80, late_samples=240)
TRAITS = SeparationTraits((RATE,), ("speech",), takes_description=False, takes_reference=False, live=BLOCKS)
CONFIG = {"type": "session.config", "model": "echo", "sample_rate": RATE}
DONE = {"type": "input.done"}


class Halves:
    """Gives half of each sample, 240 samples late. Sound with a sample of 0.75 fails."""

    traits = TRAITS

    def __init__(self) -> None:
        self.batches: list[int] = []

    def initial_state(self, channels: int) -> Samples:
        return np.zeros((channels, BLOCKS.late_samples), np.float32)

    def enhance(
        self, blocks: Sequence[Samples], states: Sequence[Samples]
    ) -> list[tuple[Samples, Samples] | Exception]:
        self.batches.append(len(blocks))
        assert len({block.shape[1] for block in blocks}) == 1
        return [self._one(block, state) for block, state in zip(blocks, states, strict=True)]

    def _one(self, block: Samples, state: Samples) -> tuple[Samples, Samples] | Exception:
        if (block == 0.75).any():
            return ValueError("loud")
        both: Samples = np.concatenate([state, block], axis=1)
        return both[:, : block.shape[1]] / np.float32(2), both[:, block.shape[1] :]


class Replica:
    """A replica of `Halves`. A `trouble` is raised by the next call, or returned if it is a `Failure`."""

    def __init__(self, id: str = "half-1") -> None:
        self.id = id
        self.streams = EnhancementStreams(Halves(), RATE, lambda: 0.0)
        self.trouble: list[BaseException | Failure] = []
        self.open = asyncio.Event()
        self.open.set()
        self.calls: list[tuple[int, int, bool]] = []

    async def traits(self) -> SeparationTraits:
        return TRAITS

    async def enhance(
        self, stream_id: str, at: int, samples: Samples, resume: Checkpoint | None
    ) -> EnhancedAnswer | Failure:
        self.calls.append((at, samples.shape[1], resume is not None))
        await self.open.wait()
        if self.trouble:
            trouble = self.trouble.pop(0)
            if isinstance(trouble, Failure):
                return trouble
            raise trouble
        try:
            sound = self.streams.new_sound(stream_id, at, samples, resume)
        except MotetError as error:
            return error.failure
        (result,) = self.streams.step([sound])
        self.streams.answered(sound)
        assert isinstance(result, EnhancedSound)
        return EnhancedAnswer(result, 0.001, self.id)

    async def close_stream(self, stream_id: str) -> None:
        self.streams.close(stream_id)


async def answer_of_replica(handle: FakeHandle, replica_id: str, method: str, *arguments: Any) -> Any:
    """Calls the replica of that name, as Ray Serve does for a stream that is bound to one."""
    if handle.target.id != replica_id:
        raise ReplicaUnavailableError(replica_id)
    return await getattr(handle.target, method)(*arguments)


@pytest.fixture(autouse=True)
def _calls_to_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_private, "answer_of_replica", answer_of_replica)


def noise(samples: int, channels: int = 1, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (channels, samples)).astype(np.float32)


def ints(samples: int, channels: int = 1) -> Any:
    return np.random.default_rng(1).integers(-16000, 16000, (samples, channels)).astype("<i2") // 2 * 2


def heard(streams: EnhancementStreams, name: str, at: int, samples: Samples, resume: Checkpoint | None = None) -> Any:
    sound = streams.new_sound(name, at, samples, resume)
    try:
        return streams.step([sound])[0]
    finally:
        streams.answered(sound)


# --- Streams at a replica


def test_the_engine_of_the_tests_is_one_that_streams() -> None:
    assert isinstance(Halves(), StreamingEnhancement)


def test_a_stream_in_parts_is_the_stream_as_a_whole() -> None:
    streams, samples = EnhancementStreams(Halves(), RATE), noise(1600, 2)
    parts = [heard(streams, "a", at, samples[:, at : at + 400]).samples for at in range(0, 1600, 400)]
    whole = heard(streams, "b", 0, samples).samples
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    np.testing.assert_array_equal(whole[:, 240:], samples[:, :-240] / 2)


def test_a_stream_continues_elsewhere_from_a_checkpoint_with_the_same_samples() -> None:
    here, there, samples = EnhancementStreams(Halves(), RATE), EnhancementStreams(Halves(), RATE), noise(3 * RATE)
    answers = [heard(here, "a", at, samples[:, at : at + 800]) for at in range(0, 3 * RATE, 800)]
    checkpoints = [answer.checkpoint for answer in answers if answer.checkpoint]
    assert [checkpoint.position for checkpoint in checkpoints] == [RATE, 2 * RATE, 3 * RATE]
    again = heard(there, "a", 2 * RATE, samples[:, 2 * RATE :], checkpoints[1])
    expected = np.concatenate([answer.samples for answer in answers], axis=1)[:, 2 * RATE :]
    np.testing.assert_array_equal(again.samples, expected)


@pytest.mark.parametrize("at", [80, 240])
def test_a_stream_that_is_not_there_is_lost(at: int) -> None:
    streams = EnhancementStreams(Halves(), RATE)
    if at == 240:
        heard(streams, "a", 0, noise(80))
    with pytest.raises(MotetError) as lost:
        streams.new_sound("a", at, noise(80), None)
    assert lost.value.failure.code == "stream_lost"
    assert len(streams) == 0


def test_a_step_takes_streams_of_one_length_together_and_one_fails_alone() -> None:
    engine = Halves()
    streams, bad = EnhancementStreams(engine, RATE), noise(80)
    bad[0, 3] = 0.75
    blocks = [noise(80), bad, noise(160), noise(80)]
    sounds = [streams.new_sound(str(n), 0, block, None) for n, block in enumerate(blocks)]
    first, failed, longer, last = streams.step(sounds)
    assert isinstance(failed, ValueError)
    assert engine.batches == [3, 1]
    for result, block in ((first, blocks[0]), (longer, blocks[2]), (last, blocks[3])):
        assert isinstance(result, EnhancedSound)
        assert result.samples.shape == block.shape


def test_a_step_that_is_repeated_gives_the_same() -> None:
    streams = EnhancementStreams(Halves(), RATE)
    heard(streams, "a", 0, noise(400))
    sound = streams.new_sound("a", 400, noise(400, seed=1), None)
    once, again = streams.step([sound])[0], streams.step([sound])[0]
    assert isinstance(once, EnhancedSound)
    assert isinstance(again, EnhancedSound)
    np.testing.assert_array_equal(once.samples, again.samples)
    assert heard(streams, "a", 800, noise(80)).samples.shape == (1, 80)


def test_forgotten_streams_are_closed_and_there_are_not_too_many() -> None:
    now = 0.0
    streams = EnhancementStreams(Halves(), RATE, lambda: now)
    for number in range(MOST_STREAMS):
        heard(streams, str(number), 0, noise(80))
    with pytest.raises(MotetError) as refused:
        streams.new_sound("more", 0, noise(80), None)
    assert refused.value.failure.kind == "overloaded"
    now = IDLE_S + 1
    heard(streams, "more", 0, noise(80))
    assert len(streams) == 1


# --- The client's samples


def back(sound: EnhancementSound) -> bytes:
    """What comes back now, through a model that changes nothing but is late."""
    engine, got = Halves(), b""
    state = getattr(sound, "state", engine.initial_state(sound._channels))
    while (blocks := sound.take()).shape[1]:
        result = engine._one(blocks, state)
        assert not isinstance(result, Exception)
        enhanced, state = result
        got += sound.returned(enhanced * 2)
    sound.state = state  # type: ignore[attr-defined]
    return got


@given(
    cuts=st.lists(st.integers(0, 3000), max_size=8),
    samples=st.integers(0, 4000),
    channels=st.sampled_from([1, 2]),
)
def test_what_comes_back_is_what_went_in_however_it_is_cut(cuts: list[int], samples: int, channels: int) -> None:
    sent = ints(samples, channels)
    sound, data, got = EnhancementSound(RATE, channels, BLOCKS), sent.tobytes(), b""
    ends = sorted(min(cut, len(data)) for cut in cuts)
    for start, end in zip([0, *ends], [*ends, len(data)], strict=True):
        sound.push(data[start:end])
        got += back(sound)
        late = len(data[:end]) - len(got)
        assert late <= 2 * channels * (BLOCKS.late_samples + BLOCKS.block_samples)
    sound.end()
    got += back(sound)
    assert sound.complete
    np.testing.assert_array_equal(np.frombuffer(got, "<i2").reshape(-1, channels), sent)


@pytest.mark.parametrize("rate", [8001, 16_000, 22_050, 44_100])
@pytest.mark.parametrize("samples", [1, 999, 20_001])
def test_other_rates_come_back_with_as_many_samples(rate: int, samples: int) -> None:
    time_s = np.arange(samples) / rate
    sent = np.rint(9000 * np.sin(2 * np.pi * 440 * time_s)).astype("<i2")
    sound = EnhancementSound(rate, 1, BLOCKS)
    sound.push(sent.tobytes())
    got = back(sound)
    sound.end()
    got = np.frombuffer(got + back(sound), "<i2")  # type: ignore[assignment]
    assert len(got) == samples
    if samples > 20_000:
        middle = slice(samples // 4, -samples // 4)
        waves = np.exp(2j * np.pi * 440 * time_s[middle])
        basis = np.stack([waves.real, waves.imag], axis=1)
        parts, residual, *_ = np.linalg.lstsq(basis, np.asarray(got, float)[middle], rcond=None)
        assert np.hypot(*parts) == pytest.approx(9000, rel=0.01)
        assert np.sqrt(residual[0] / len(basis)) < 0.005 * 9000
        assert abs(np.arctan2(parts[0], parts[1])) / (2 * np.pi * 440) < 0.6 / RATE


# --- Lost replicas


async def whole(stream: LiveEnhancement, samples: Samples, part: int = 800) -> Samples:
    parts = [await stream.enhance(samples[:, at : at + part]) for at in range(0, samples.shape[1], part)]
    await stream.close()
    return np.concatenate(parts, axis=1)


def stream_over(replica: Replica) -> LiveEnhancement:
    bench = Bench(separator=replica)
    return LiveEnhancement(bench.service.directory, "echo", BLOCKS, 1, EnhancementLoad())


async def test_a_stream_asks_one_replica_for_new_sound_only_and_frees_it() -> None:
    replica, samples = Replica(), noise(2400)
    got = await whole(stream_over(replica), samples)
    np.testing.assert_array_equal(got[:, 240:], samples[:, :-240] / 2)
    assert replica.calls == [(0, 800, False), (800, 800, False), (1600, 800, False)]
    assert len(replica.streams) == 0


LOST = Failure("unavailable", "Lost.", "Open again.", code="stream_lost")


@pytest.mark.parametrize("trouble", [RayActorError(), ReplicaUnavailableError("half-1"), LOST])
@pytest.mark.parametrize("at", [0, 5, 14, 25])
async def test_a_lost_replica_changes_no_sample(trouble: BaseException | Failure, at: int) -> None:
    replica, samples = Replica(), noise(3 * RATE)
    stream, got = stream_over(replica), []
    for number in range(30):
        if number == at:
            replica.trouble.append(trouble)
        got.append(await stream.enhance(samples[:, number * 800 : (number + 1) * 800]))
    np.testing.assert_array_equal(np.concatenate(got, axis=1)[:, 240:], samples[:, :-240] / 2)
    repeated = replica.calls[at + 1]
    assert repeated[0] == at * 800 // RATE * RATE
    assert repeated[2] is (repeated[0] > 0)


async def test_a_stream_whose_replicas_are_all_lost_ends() -> None:
    replica = Replica()
    replica.trouble += [RayActorError()] * 3
    with pytest.raises(MotetError) as ended:
        await stream_over(replica).enhance(noise(80))
    assert ended.value.failure.kind == "unavailable"


async def test_an_engines_error_ends_the_stream() -> None:
    replica = Replica()
    replica.trouble.append(Failure("engine", "It broke.", "Report it."))
    with pytest.raises(MotetError, match="It broke"):
        await stream_over(replica).enhance(noise(80))


def test_streams_that_would_be_too_much_are_refused() -> None:
    now_s = 0.0
    load = EnhancementLoad(lambda: now_s)
    load.note("a", share_s=0.3, seconds=1.0)
    with load.admit("a", 1), load.admit("a", 1):
        with pytest.raises(MotetError) as refused, load.admit("a", 1):
            pass
        assert refused.value.failure.kind == "overloaded"
        with load.admit("a", 2), load.admit("b", 1):
            pass
    load.note("a", share_s=30.0, seconds=1.0)
    with load.admit("a", 1):
        with pytest.raises(MotetError), load.admit("a", 1):
            pass
        now_s = 61.0  # the first one may have sent nothing since
        with load.admit("a", 1):
            pass


def test_several_gateways_admit_as_many_streams_as_one() -> None:
    for gateways, most in ((1, 4), (2, 2), (8, 1)):
        load = EnhancementLoad(gateways=gateways)
        load.note("a", share_s=0.2, seconds=1.0)
        with ExitStack() as open_streams:
            for _ in range(most):
                open_streams.enter_context(load.admit("a", 1))
            with pytest.raises(MotetError), load.admit("a", 1):
                pass


# --- The WebSocket


def socket(replica: Replica, **settings: Any) -> Socket:
    bench = Bench(separator=replica, enhancement=EnhancementSettings(**settings))
    return Socket(bench, path="/v1/audio/enhancements/stream")


def push(client: Socket, data: bytes) -> None:
    client._to_server.put_nowait({"type": "websocket.receive", "bytes": data})


def sound_of(events: list[Any]) -> Any:
    return np.frombuffer(b"".join(event for event in events if isinstance(event, bytes)), "<i2")


@in_time
async def test_a_session_gives_back_its_sound_without_the_noise() -> None:
    replica, sent = Replica(), ints(4001)
    client = socket(replica)
    client.send(**CONFIG)
    for start in range(0, 8002, 1111):
        push(client, sent.tobytes()[start : start + 1111])
    client.send(**DONE)
    ready, *rest = await client.events()
    assert ready == {"type": "session.ready", "model": "echo", "delay_ms": 40.0, "ignored": []}
    assert rest[-2:] == [{"type": "session.done", "seconds": 0.500125}, 1000]
    np.testing.assert_array_equal(sound_of(rest), sent[:, 0] // 2)
    assert len(replica.streams) == 0


@in_time
async def test_a_session_without_sound_ends() -> None:
    client = socket(Replica())
    client.send(**CONFIG)
    client.send(**DONE)
    events = await client.events()
    assert events[1:] == [{"type": "session.done", "seconds": 0.0}, 1000]


WRONG: dict[str, tuple[list[dict[str, Any] | bytes | str], str, int]] = {
    "no config": ([DONE], "no_config", 1008),
    "sound before the config": ([b"\0\0"], "no_config", 1008),
    "a config twice": ([CONFIG, CONFIG], "configured", 1008),
    "sound after the end": ([CONFIG, DONE, b"\0\0"], "input_done", 1008),
    "no JSON": (["{"], "json_invalid", 1008),
    "another type": ([{"type": "input.text", "text": "a"}], "unknown_type", 1008),
    "a long message": (["x" * 70_000], "message_too_large", 1009),
    "a model that speaks": ([{**CONFIG, "model": "tone"}], "model_not_found", 1008),
    "a low rate": ([{**CONFIG, "sample_rate": 4000}], "greater_than_equal", 1008),
    "three channels": ([{**CONFIG, "channels": 3}], "less_than_equal", 1008),
    "far ahead": ([CONFIG, bytes(2 * 11 * RATE)], "input_audio_buffer_full", 1009),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_and_ends_the_session(case: str) -> None:
    messages, code, closed = WRONG[case]

    @in_time
    async def test() -> None:
        replica = Replica()
        if case == "sound after the end":
            replica.open.clear()
        client = socket(replica)
        for message in messages:
            if isinstance(message, dict):
                client.send(**message)
            elif isinstance(message, bytes):
                push(client, message)
            else:
                client.send_raw(message)
        *_, error, status = await client.events()
        assert (error["type"], error["error"]["code"], status) == ("error", code, closed)
        assert len(replica.streams) == 0

    test()


@in_time
async def test_a_model_that_does_not_stream_is_refused() -> None:
    class Whole(Replica):
        async def traits(self) -> SeparationTraits:
            return SeparationTraits((RATE,), ("speech",), takes_description=False, takes_reference=False)

    client = socket(Whole())
    client.send(**CONFIG)
    error, status = await client.events()
    assert "does not enhance streams" in error["error"]["message"]
    assert status == 1008


@in_time
async def test_idle_and_old_sessions_are_closed() -> None:
    for settings, code in (({"idle_s": 5.0}, "session_idle"), ({"max_session_s": 3.0}, "session_expired")):
        client = socket(Replica(), **settings)
        client.send(**CONFIG)
        *_, error, status = await client.events()
        assert (error["error"]["code"], status) == (code, 1013)


@in_time
async def test_a_client_in_real_time_is_not_blamed_for_a_slow_service() -> None:
    replica = Replica()
    replica.open.clear()
    client = socket(replica, max_buffered_s=2.0)
    client.send(**CONFIG)
    await client.received()
    await client.received()
    for _ in range(5):
        push(client, bytes(RATE))
        await asyncio.sleep(0.5)
    error, status = await client.events()
    assert (error["error"]["code"], status) == ("too_slow", 1013)


@in_time
async def test_a_large_message_is_refused_before_it_is_read() -> None:
    client = socket(Replica(), max_buffered_s=2.0)
    client.send(**CONFIG)
    push(client, bytes(2**24))
    *_, error, status = await client.events()
    assert (error["error"]["code"], status) == ("input_audio_buffer_full", 1009)


@in_time
async def test_a_client_that_leaves_frees_its_stream_and_its_place() -> None:
    replica = Replica()
    bench = Bench(separator=replica)
    client = Socket(bench, path="/v1/audio/enhancements/stream")
    client.send(**CONFIG)
    push(client, bytes(2 * RATE))
    for _ in range(3):
        await client.received()
    assert len(replica.streams) == 1
    client.leave()
    with suppress(asyncio.CancelledError):
        await client.over()
    assert len(replica.streams) == 0
    assert bench.service.enhancements.limit.open == 0


def test_sessions_have_a_limit() -> None:
    shared = live_enhancements(EnhancementSettings(max_sessions=1))
    with shared.limit.one(None), pytest.raises(MotetError) as refused, shared.limit.one(None):
        pass
    assert refused.value.failure.code == "too_many_sessions"
