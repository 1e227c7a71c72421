"""A turn that is heard while it is spoken: its rate, the loss of replicas, and what is left behind."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from ray.exceptions import RayActorError
from ray.serve.exceptions import ReplicaUnavailableError

from cluster import ray_private
from deployments.engines.protocols import RecognitionOptions, Segment, Transcript
from deployments.engines.streaming import PartialTranscript
from deployments.errors import Failure, MotetError
from deployments.replica.live_streams import HeardStream, LiveStream, LiveStreams
from deployments.settings import HealthSettings, SpilloverSettings
from deployments.text.agreement import words_in
from serve_app.gateway.live.continuation import Continuation
from serve_app.gateway.live.pace import LivePace
from serve_app.gateway.live.recognition import MOST_KEPT_S, LiveRecognition
from serve_app.gateway.live.settings import RealtimeSettings
from serve_app.gateway.routing.directory import ModelDirectory, ModelEntry
from serve_app.gateway.routing.placement import PlacedModel
from tests.unit.fakes import FakeHandle
from tests.unit.test_growing_windows import NumberEngine, numbers, windows_over

RATE = 16_000
OPTIONS = RecognitionOptions()
SETTINGS = RealtimeSettings()
KINDS = ("mlx", "cpu")
ENTRY = ModelEntry("transcription", (), {}, None, KINDS)


class Here:
    """The engine's thread: the caller's."""

    def submit(self, function: Callable[[LiveStream], object], stream: LiveStream, /) -> None:
        function(stream)


class Replica:
    """A replica that hears numbers. A `trouble` is raised by the next call, or returned if it is a `Failure`."""

    def __init__(self, id: str = "ear-1") -> None:
        self.id = id
        self.engine = NumberEngine()
        self.streams = LiveStreams(windows_over(self.engine), Here(), lambda: 0.0)
        self.trouble: list[BaseException | Failure] = []
        self.open = asyncio.Event()
        self.open.set()
        self.calls: list[tuple[int, int, int | None]] = []

    async def listen(
        self, stream_id: str, options: RecognitionOptions, at: int, samples: bytes, finish_at: int | None
    ) -> HeardStream | Failure:
        self.calls.append((at, len(samples) // 2, finish_at))
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.streams.close(stream_id)
            raise
        if self.trouble:
            trouble = self.trouble.pop(0)
            if isinstance(trouble, Failure):
                return trouble
            raise trouble
        try:
            hearing = self.streams.hearing(stream_id, options, at, samples, finish_at)
        except MotetError as error:
            return error.failure
        (result,) = self.streams.step([hearing])
        assert isinstance(result, PartialTranscript)
        if result.last:
            self.streams.close(stream_id)
        return HeardStream(result, 0.1, 1, self.id)

    async def close_stream(self, stream_id: str) -> None:
        self.streams.close(stream_id)


class Placement:
    """Replicas in one placement. A call that asks for none of them goes to the next one in turn."""

    def __init__(self, *replicas: Replica) -> None:
        self.replicas = [*replicas]
        self.turns = itertools.cycle(replicas)

    async def listen(self, *arguments: Any) -> HeardStream | Failure:
        return await next(self.turns).listen(*arguments)


@pytest.fixture(autouse=True)
def _calls_to_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer_of_replica(handle: FakeHandle, replica_id: str, method: str, *arguments: Any) -> Any:
        for replica in getattr(handle.target, "replicas", [handle.target]):
            if replica.id == replica_id:
                return await getattr(replica, method)(*arguments)
        raise ReplicaUnavailableError(replica_id)

    monkeypatch.setattr(ray_private, "answer_of_replica", answer_of_replica)


def directory(*replicas: Replica | Placement) -> ModelDirectory:
    placed = [
        PlacedModel("ear", kind, FakeHandle(replica), SpilloverSettings(), HealthSettings())  # type: ignore[arg-type]
        for kind, replica in zip(KINDS, replicas, strict=False)
    ]
    return ModelDirectory({"ear": ENTRY}, {"ear": placed})


def sound(*words: int) -> NDArray[np.int16]:
    return (numbers(*words) * 32768).astype(np.int16)


def turn(
    *replicas: Replica | Placement,
    options: RecognitionOptions = OPTIONS,
    pace: LivePace | None = None,
    delay_s: float = 0.0,
) -> LiveRecognition:
    return LiveRecognition(directory(*replicas), "ear", options, SETTINGS, pace or LivePace(SETTINGS), delay_s)


def said(partial: PartialTranscript) -> tuple[str, str]:
    return partial.committed, partial.tentative


@asynccontextmanager
async def heard(recognition: LiveRecognition) -> AsyncIterator[Callable[[], Any]]:
    """Gives the next partial, at most once at a time."""
    partials = recognition.partials()
    try:
        yield lambda: asyncio.wait_for(anext(partials), 5)
    finally:
        await partials.aclose()
        await recognition.close()


async def test_a_turn_is_heard_every_400_ms_of_new_sound_and_ends() -> None:
    replica = Replica()
    recognition = turn(replica)
    async with heard(recognition) as next_one:
        recognition.push(sound(1))
        waiting = asyncio.create_task(next_one())
        await settle()
        assert not replica.calls
        recognition.push(sound(2))
        assert said(await waiting) == ("", "1 2")
        recognition.push(sound(3, 4))
        assert said(await next_one()) == ("1 2", " 3 4")
        assert recognition.waiting_samples == 0
        recognition.push(sound(5))
        assert recognition.waiting_samples == RATE // 4
        recognition.finish(5 * RATE // 4)
        last = await next_one()
        assert (said(last), last.last) == (("1 2 3 4 5", ""), True)
        with pytest.raises(StopAsyncIteration):
            await next_one()
    assert len(replica.streams) == 0
    assert [at for at, _, _ in replica.calls] == [0, RATE // 2, RATE]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_with_a_delay_a_hearing_waits_for_more_sound_but_not_at_a_pause() -> None:
    replica = Replica()
    recognition = turn(replica, delay_s=1.0)
    async with heard(recognition) as next_one:
        recognition.push(sound(1, 2, 3))
        waiting = asyncio.create_task(next_one())
        await settle()
        assert not replica.calls
        recognition.push(sound(4))
        assert said(await waiting) == ("", "1 2 3 4")
        recognition.push(sound(5))
        recognition.pause()
        assert said(await next_one()) == ("1 2 3 4", " 5")


async def test_a_pause_is_heard_at_once_and_then_the_end_costs_nothing() -> None:
    replica = Replica()
    recognition = turn(replica)
    async with heard(recognition) as next_one:
        recognition.push(sound(1))
        recognition.pause()
        assert said(await next_one()) == ("", "1")
        calls = len(replica.calls)
        recognition.push(np.zeros(RATE // 4, np.int16))
        recognition.finish(RATE // 4)
        last = await next_one()
        assert (said(last), last.last) == (("1", ""), True)
        assert last.transcript is not None
        assert last.transcript.text == "1"
        assert len(replica.calls) == calls
    assert len(replica.streams) == 0


async def test_a_hearing_under_way_is_dropped_if_the_text_is_known() -> None:
    replica = Replica()
    recognition = turn(replica)
    async with heard(recognition) as next_one:
        recognition.push(sound(1, 2))
        await next_one()
        replica.open.clear()
        recognition.push(np.zeros(RATE // 2, np.int16))
        waiting = asyncio.create_task(next_one())
        await settle()
        assert len(replica.calls) == 2
        recognition.finish(RATE // 2)
        assert said(await waiting) == ("1 2", "")
    assert len(replica.streams) == 0


async def test_times_of_words_come_from_the_replica() -> None:
    replica = Replica()
    recognition = turn(replica, options=RecognitionOptions(word_times=True))
    async with heard(recognition) as next_one:
        recognition.push(sound(1, 2))
        await next_one()
        recognition.finish(RATE // 2)
        assert (await next_one()).last
    assert replica.calls[-1][2] == RATE // 2


async def test_a_turn_that_is_closed_frees_its_stream_and_ends() -> None:
    replica = Replica()
    recognition = turn(replica)
    recognition.push(sound(1, 2))
    replica.open.clear()
    all_of_them = asyncio.create_task(everything(recognition))
    await settle()
    assert len(replica.calls) == 1
    await recognition.close()
    await recognition.close()
    assert await all_of_them == []
    assert len(replica.streams) == 0


async def everything(recognition: LiveRecognition) -> list[PartialTranscript]:
    return [partial async for partial in recognition.partials()]


LOST = Failure("unavailable", "The replica does not have this stream.", code="stream_lost")


@pytest.mark.parametrize("trouble", [RayActorError(), LOST])
@pytest.mark.parametrize("after", [1, 3, 8, 12])
async def test_a_lost_stream_goes_on_elsewhere_and_nothing_is_said_twice(trouble: Any, after: int) -> None:
    replicas = Replica(), Replica()
    recognition = turn(*replicas)
    words, texts = list(range(1, 31)), []
    async with heard(recognition) as next_one:
        for number, at in enumerate(range(0, len(words), 2)):
            if number == after:
                for replica in replicas:
                    replica.trouble.append(trouble) if replica.calls else None
            recognition.push(sound(*words[at : at + 2]))
            texts.append((await next_one()).committed)
        recognition.finish(len(words) * RATE // 4)
        last = await next_one()
    texts.append(last.committed)
    assert all(later.startswith(before) for before, later in itertools.pairwise(texts))
    assert last.committed == " ".join(map(str, words))
    assert last.transcript is not None
    assert last.transcript.text == last.committed
    assert last.heard_samples == len(words) * RATE // 4
    assert all(len(replica.streams) <= 1 for replica in replicas)


async def test_a_stream_stays_at_its_replica_and_moves_when_that_is_gone() -> None:
    replicas = [Replica(f"ear-{number}") for number in range(3)]
    placement = Placement(*replicas)
    recognition = turn(placement)
    async with heard(recognition) as next_one:
        for number in range(0, 6, 2):
            recognition.push(sound(number + 1, number + 2))
            await next_one()
        assert [len(replica.calls) for replica in replicas] == [3, 0, 0]
        placement.replicas.pop(0)
        for number in range(6, 10, 2):
            recognition.push(sound(number + 1, number + 2))
            await next_one()
        assert [len(replica.calls) for replica in replicas] == [3, 2, 0]
        recognition.finish(10 * RATE // 4)
        assert (await next_one()).committed == " ".join(map(str, range(1, 11)))
    assert not replicas[1].streams


async def test_a_stream_is_closed_at_its_replica() -> None:
    replicas = [Replica(f"ear-{number}") for number in range(2)]
    recognition = turn(Placement(*replicas))
    async with heard(recognition) as next_one:
        recognition.push(sound(1, 2))
        await next_one()
        assert len(replicas[0].streams) == 1
    assert len(replicas[0].streams) == 0


async def test_sound_that_ends_every_replica_is_not_sent_for_ever() -> None:
    replicas = Replica(), Replica()
    for replica in replicas:
        replica.trouble += [RayActorError()] * 9
    recognition = turn(*replicas)
    async with heard(recognition) as next_one:
        recognition.push(sound(1, 2))
        with pytest.raises(MotetError, match="no replica"):
            await next_one()
    assert sum(len(replica.calls) for replica in replicas) == 3


async def test_another_failure_is_raised() -> None:
    replica = Replica()
    replica.trouble.append(Failure("engine", "It broke."))
    recognition = turn(replica)
    async with heard(recognition) as next_one:
        recognition.push(sound(1, 2))
        with pytest.raises(MotetError, match="It broke"):
            await next_one()


async def test_sound_is_kept_only_as_long_as_it_may_be_needed() -> None:
    recognition = turn(Replica())
    block = np.zeros(RATE, np.int16)
    for _ in range(300):
        recognition.push(block)
    assert recognition._sound.end - recognition._sound.start <= (MOST_KEPT_S + 1) * RATE


def test_sessions_are_admitted_by_what_a_hearing_costs() -> None:
    pace = LivePace(SETTINGS)
    with pace.admit("ear"):
        pace.note("ear", 0.6, 1, 1)  # half of it is expected where two are heard together
        with pace.admit("ear"), pace.admit("ear"):
            with pytest.raises(MotetError) as refused, pace.admit("ear"):
                pass
            assert refused.value.failure.kind == "overloaded"
            pace.note("ear", 0.6, 4, 1)  # together they cost less
            with pace.admit("ear"), pace.admit("another"):
                pass
        with pace.admit("ear"):
            pass


def test_costs_of_step_sizes_that_do_not_occur_any_more_are_forgotten() -> None:
    now_s = 0.0
    pace = LivePace(SETTINGS, lambda: now_s)
    pace.note("ear", 0.8, 4, 1)
    pace.note("ear", 0.9, 2, 1)
    now_s = 59.0
    pace.note("ear", 0.9, 2, 1)
    with pace.turn("ear"), pace.turn("ear"):
        assert pace.every_s("ear") == pytest.approx(0.5)
        now_s = 61.0
        pace.note("ear", 0.9, 2, 1)
        assert pace.every_s("ear") == 1.0


def test_one_session_is_admitted_however_slow_the_last_steps_were() -> None:
    pace = LivePace(SETTINGS)
    pace.note("ear", 5.0, 1, 1)
    with pace.admit("ear"), pytest.raises(MotetError), pace.admit("ear"):
        pass
    with pace.admit("ear"):
        pass


def test_several_gateways_admit_and_hear_as_many_sessions_as_one() -> None:
    alone, here, there = (LivePace(SETTINGS, gateways=number) for number in (1, 2, 2))
    for pace in (alone, here, there):
        pace.note("ear", 0.5, 2, 1)
    with ExitStack() as open_sessions:
        for pace, most in ((alone, 4), (here, 2), (there, 2)):
            for _ in range(most):
                open_sessions.enter_context(pace.admit("ear"))
                open_sessions.enter_context(pace.turn("ear"))
            with pytest.raises(MotetError), pace.admit("ear"):
                pass
        assert alone.every_s("ear") == here.every_s("ear") == there.every_s("ear") == 1.0


def test_a_silent_session_keeps_nobody_out_after_a_slow_moment() -> None:
    now_s = 0.0
    pace = LivePace(SETTINGS, lambda: now_s)
    pace.note("ear", 5.0, 1, 1)
    with pace.admit("ear"):
        now_s = 61.0
        with pace.admit("ear"):
            pass


def test_turns_are_heard_less_often_under_load() -> None:
    pace = LivePace(SETTINGS)
    pace.note("ear", 0.4, 2, 1)
    with pace.turn("ear"):
        assert pace.every_s("ear") == 0.4
        with pace.turn("ear"), pace.turn("ear"):
            assert pace.every_s("ear") == pytest.approx(0.75)
            with pace.turn("ear"), pace.turn("ear"):
                assert pace.every_s("ear") == 1.0
    pace.note("other", 0.2, 1, 2)
    with pace.turn("other"), pace.turn("other"), pace.turn("other"):
        assert pace.every_s("other") == 0.4


WORDS = st.lists(st.integers(0, 10**6).map(lambda number: f"w{number}"), unique=True, min_size=1, max_size=20)


@given(WORDS, st.data())
def test_a_continuation_says_each_word_once(words: list[str], data: st.DataObject) -> None:
    settled = data.draw(st.integers(0, len(words)))
    given_out = data.draw(st.integers(settled, len(words)))
    before = " ".join(words[:given_out])
    lost = PartialTranscript(
        before, "", "en", 0, settled_samples=100 * settled, settled_characters=len(" ".join(words[:settled]))
    )
    continuation = Continuation.after(lost)
    counts = sorted(data.draw(st.lists(st.integers(settled, len(words)), max_size=4)))
    texts = [before]
    for count in counts:
        partial = PartialTranscript(" ".join(words[settled:count]), " ".join(words[count:]), "en", 0)
        texts.append(continuation.applied(partial).committed)
    rest = " ".join(words[settled:])
    transcript = Transcript((Segment(rest, 0.0, 1.0, 0.0, 0.0),) if rest else (), "en")
    last = continuation.applied(PartialTranscript(rest, "", "en", 5, last=True, transcript=transcript))
    texts.append(last.committed)
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert words_in(last.committed) == words
    assert last.transcript is not None
    assert words_in(last.transcript.text) == words
    assert last.heard_samples == 5 + 100 * settled
