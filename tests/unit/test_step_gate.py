"""The gate: callers that arrive during a step enter the next one together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray import serve

from deployments.engines.protocols import Transcript, Window
from deployments.replica.engine_thread import EngineThread
from deployments.replica.metrics import StepMetrics
from deployments.replica.recognizer import Recognizer
from deployments.replica.step_gate import StepGate, Stepper
from deployments.replica.step_scheduling import Candidate, StepRequest
from deployments.replica.synthesizer import Stream, Synthesizer
from deployments.settings import StepSettings
from deployments.tasks.engine_calls import advance_or_halve
from deployments.tasks.transcription import probe_window

NEVER_MS = 50.0
"""A settling time that no test here lives to see the end of."""


class Stage:
    """A gate, and a step that ends when the test says so."""

    def __init__(self, **settings: object) -> None:
        self.gate: StepGate[str] = StepGate(StepSettings.model_validate(settings), clock=lambda: 0.0)
        self.in_step: dict[str, asyncio.Event] = {}
        self.together: dict[str, int] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def _one(self, name: str, deadline_s: float) -> None:
        async with self.gate.turn(Candidate(name, StepRequest(deadline_s))) as together:
            self.together[name] = together
            done = self.in_step[name] = asyncio.Event()
            await done.wait()
            del self.in_step[name]

    async def come(self, *names: str, deadline_s: float = 0.0) -> None:
        for name in names:
            self.tasks[name] = asyncio.create_task(self._one(name, deadline_s))
        await settle()

    async def end_step(self) -> set[str]:
        """Ends the present step; returns who was in it."""
        names = set(self.in_step)
        for done in list(self.in_step.values()):
            done.set()
        await asyncio.gather(*(self.tasks[name] for name in names))
        await settle()
        return names


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_an_idle_gate_lets_the_first_caller_through_at_once() -> None:
    stage = Stage()
    await stage.come("a")
    assert set(stage.in_step) == {"a"}


async def test_who_comes_while_a_step_runs_goes_into_the_next_one_together() -> None:
    stage = Stage(max_batch_size=8, batch_wait_ms=NEVER_MS)
    with stage.gate.stream(), stage.gate.stream(), stage.gate.stream():
        await stage.come("a")
        await stage.come("b", "c")
        assert set(stage.in_step) == {"a"}
        await stage.end_step()
        assert set(stage.in_step) == set()  # "a" may come back in a moment
        await stage.come("a")
        assert set(stage.in_step) == {"a", "b", "c"}
        assert stage.together["b"] == 3


async def test_the_gate_does_not_wait_for_ever_for_one_that_left() -> None:
    stage = Stage(batch_wait_ms=0.0)
    with stage.gate.stream(), stage.gate.stream():
        await stage.come("a")
        await stage.come("b")
        await stage.end_step()
        await asyncio.wait_for(until(lambda: "b" in stage.in_step), 5)


async def until(true: object) -> None:
    while not true():  # type: ignore[operator]  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_a_full_batch_goes_without_waiting_for_the_rest() -> None:
    stage = Stage(max_batch_size=2, batch_wait_ms=NEVER_MS)
    with stage.gate.stream(), stage.gate.stream(), stage.gate.stream():
        await stage.come("a")
        await stage.come("b", "c")
        await stage.end_step()
        await stage.come("d")
        assert set(stage.in_step) == {"b", "c"}


async def test_who_waits_does_not_wait_for_a_stream_that_has_ended() -> None:
    stage = Stage(max_batch_size=8, batch_wait_ms=NEVER_MS)
    with stage.gate.stream():
        with stage.gate.stream():
            await stage.come("a")
            await stage.come("b")
            await stage.end_step()
            assert set(stage.in_step) == set()  # "a" may come back in a moment
        await settle()
        assert set(stage.in_step) == {"b"}


async def test_one_that_leaves_at_the_gate_is_forgotten() -> None:
    stage = Stage()
    await stage.come("a")
    await stage.come("b")
    stage.tasks["b"].cancel()
    await settle()
    assert stage.gate.waiting == 0
    await stage.end_step()
    await stage.come("c")
    await asyncio.wait_for(until(lambda: "c" in stage.in_step), 5)


@pytest.mark.parametrize("leaver", ["in the step", "let through"])
async def test_one_that_leaves_does_not_keep_the_gate_shut(leaver: str) -> None:
    stage = Stage(batch_wait_ms=0.0)
    await stage.come("a")
    if leaver == "let through":
        task = asyncio.create_task(stage._one("b", 0.0))
        await settle()
        await stage.end_step()
        await asyncio.wait_for(until(lambda: "b" in stage.in_step), 5)
        task.cancel()
    else:
        stage.tasks["a"].cancel()
    await settle()
    await stage.come("c")
    await asyncio.wait_for(until(lambda: "c" in stage.in_step), 5)


async def test_a_step_of_one_stepper_does_not_wait_for_those_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that enhances live streams has two of them, on threads of their own."""
    context = SimpleNamespace(_deployment_config=SimpleNamespace(max_ongoing_requests=8))
    monkeypatch.setattr(serve, "get_replica_context", lambda: context)
    released = threading.Event()

    def waits(items: Sequence[str]) -> list[str | Exception]:
        assert released.wait(5), "the other stepper took no step meanwhile"
        return [*items]

    settings, request = StepSettings(max_batch_size=4, batch_wait_ms=0.0), StepRequest(0.0)
    slow: Stepper[str, str] = Stepper(waits, EngineThread("slow"), settings, StepMetrics("slow"))
    fast: Stepper[str, str] = Stepper(lambda items: [*items], EngineThread("fast"), settings, StepMetrics("fast"))
    first = asyncio.create_task(slow.step("a", request))
    await settle()
    assert (await asyncio.wait_for(fast.step("b", request), 5)).result == "b"
    released.set()
    assert (await first).result == "a"


def test_a_batch_that_fails_as_a_whole_is_tried_in_halves() -> None:
    calls: list[list[str]] = []

    def advance(items: object) -> list[str | Exception]:
        names = list(items)  # type: ignore[call-overload]
        calls.append(names)
        if "poison" in names:
            raise ValueError("poison")
        return [name.upper() for name in names]

    results = advance_or_halve(advance, ["a", "b", "poison", "c"])
    assert results[:2] == ["A", "B"]
    assert all(isinstance(result, ValueError) for result in results[2:])
    assert len(calls) == 3


def test_an_engine_that_forgets_a_result_fails_instead_of_shifting_the_others() -> None:
    results = advance_or_halve(lambda items: ["only one"], ["a", "b"])
    assert [str(result) for result in results] == ["only one", "only one"]
    (alone,) = advance_or_halve(lambda items: [], ["a"])
    assert isinstance(alone, RuntimeError)


class ForgetfulEngine:
    """Gives one result less than it has utterances."""

    def open(self, request: object) -> object:
        return request

    def step(self, utterances: list[str]) -> list[str]:
        return utterances[1:]


def test_a_replica_refuses_a_step_of_speech_without_a_result_for_each_stream() -> None:
    replica: Any = Synthesizer.__new__(Synthesizer)
    replica._engine = ForgetfulEngine()
    with pytest.raises(RuntimeError, match="1 results for 2 items"):
        replica._advance([Stream(cast("Any", name)) for name in ("a", "b")])


class ForgetfulRecognition:
    """Gives one transcript less than it has windows."""

    def transcribe(self, windows: list[Window]) -> list[Transcript]:
        return [Transcript((), "en") for _ in windows[1:]]


def test_a_replica_refuses_a_step_of_recognition_without_a_result_for_each_window() -> None:
    replica: Any = Recognizer.__new__(Recognizer)
    replica._engine = ForgetfulRecognition()
    with pytest.raises(RuntimeError, match="1 results for 2 items"):
        replica._advance([probe_window(16_000)] * 2)
