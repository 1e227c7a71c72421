"""The streams of a speech replica: one that fails gives its place back only when the engine is rid of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.engines.protocols import SpeechRequest
from deployments.errors import Failure
from deployments.replica.load import ReplicaLoad
from deployments.replica.step_gate import StepResult
from deployments.replica.step_scheduling import StepRequest
from deployments.replica.synthesizer import Stream, Synthesizer
from tests.unit.fakes import ToneEngine


class OnePlaceEngine(ToneEngine):
    """Has one place, and fails to speak "bad" texts. Not all engines free the place of an utterance that failed."""

    max_streams = 1

    def __init__(self) -> None:
        super().__init__()
        self.open_now = 0

    def open(self, request: SpeechRequest) -> Any:
        self.open_now += 1
        if self.open_now > self.max_streams:
            raise RuntimeError("all places are taken")
        return super().open(request)

    def step(self, utterances: Any) -> Any:
        if utterances[0].request.pieces[0].startswith("bad"):
            return [RuntimeError("cannot be spoken")]
        return super().step(utterances)

    def close(self, utterance: Any) -> None:
        self.open_now -= not utterance.closed
        super().close(utterance)


class InlineThread:
    """Runs calls at once."""

    def submit(self, function: Callable[..., object], *arguments: Any) -> None:
        function(*arguments)


class SteppingAlone:
    """Steps each stream by itself, without Ray. See `Stepper`."""

    def __init__(self, replica: Synthesizer) -> None:
        self._replica = replica
        self.gate = SimpleNamespace(stream=self._stream, settings=SimpleNamespace(urgent_below_ms=150.0))

    @contextmanager
    def _stream(self) -> Iterator[None]:
        yield

    async def step(self, stream: Stream, request: StepRequest) -> StepResult[Any]:
        await asyncio.sleep(0)
        (result,) = self._replica._advance([stream])
        if isinstance(result, Exception):
            raise result
        return StepResult(result, 0.0, 0.0)


@pytest.fixture
def replica() -> Any:
    """A replica of an engine with one place."""
    made: Any = Synthesizer.__new__(Synthesizer)
    made._engine, made._places = OnePlaceEngine(), asyncio.Semaphore(1)
    made._stepper, made.thread, made.load = SteppingAlone(made), InlineThread(), ReplicaLoad()
    made._settings = SimpleNamespace(model="one-place")
    made._metrics = SimpleNamespace(
        opened=lambda _: None, made=lambda _: None, wasted=lambda _: None, stepped=lambda *_: None
    )
    made.memory_guard = SimpleNamespace(ensure=_nothing)
    return made


async def _nothing() -> None:
    pass


@pytest.fixture(autouse=True)
def no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pace of a stream is a metric of Ray's."""
    pace = SimpleNamespace(step=lambda _: None, ended=lambda: None)
    monkeypatch.setattr("deployments.replica.synthesizer.StreamPace", lambda _: pace)


async def first_item(speech: AsyncIterator[Any]) -> Any:
    return await asyncio.wait_for(anext(speech), 5)


async def test_a_stream_that_failed_frees_its_slot_before_its_place_is_given_away(replica: Any) -> None:
    bad = replica.speak(SpeechRequest(("bad text",), "ada"))
    assert isinstance(await first_item(bad), Failure)
    # The caller has not read on, so this generator has not ended.
    good = replica.speak(SpeechRequest(("good text",), "ada"))
    assert not isinstance(await first_item(good), Failure)
    await good.aclose()
    await bad.aclose()
    assert replica._engine.open_now == 0


async def test_a_stream_whose_client_leaves_frees_its_slot(replica: Any) -> None:
    speech = replica.speak(SpeechRequest(("one", "two"), "ada"))
    await first_item(speech)
    assert replica._engine.open_now == 1
    await speech.aclose()
    assert replica._engine.open_now == 0 and not replica._places.locked()
