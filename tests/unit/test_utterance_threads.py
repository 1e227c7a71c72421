"""Parallel utterances: a step ends with the first that is done, waiting ones get the free thread, and no work is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event

import pytest

from deployments.engines.hibari.utterance_threads import StepPace, UtteranceThreads

PATIENCE_S = 20.0


class Work:
    """Calls that end when the test says so, and note that they have begun."""

    def __init__(self, *names: str) -> None:
        self.begun = {name: Event() for name in names}
        self.end = {name: Event() for name in names}

    def __call__(self, name: str) -> str:
        self.begun[name].set()
        assert self.end[name].wait(PATIENCE_S)
        return name.upper()

    def calls(self, *names: str) -> dict[object, partial[str]]:
        return {name: partial(self, name) for name in names}


def test_a_step_ends_with_the_first_and_the_other_goes_on() -> None:
    lanes, work = UtteranceThreads[str](2, "lane"), Work("long", "short", "next")
    work.end["short"].set()
    assert lanes.step(work.calls("long", "short")) == {"short": "SHORT"}
    work.end["next"].set()  # on the free lane, beside the long one
    assert lanes.step(work.calls("long", "next")) == {"next": "NEXT"}
    work.end["long"].set()
    assert lanes.step(work.calls("long")) == {"long": "LONG"}


def test_the_first_named_goes_first_where_not_all_have_a_lane() -> None:
    lanes, work = UtteranceThreads[str](1, "lane"), Work("urgent", "later")
    work.end["urgent"].set()
    assert lanes.step(work.calls("urgent", "later")) == {"urgent": "URGENT"}
    assert not work.begun["later"].is_set()


def test_a_lane_that_others_free_is_taken_within_the_step() -> None:
    """The only lane works for somebody who is not in this step."""
    lanes, work = UtteranceThreads[str](2, "lane"), Work("a", "b", "c")
    work.end["b"].set()
    lanes.step(work.calls("a", "b"))
    with ThreadPoolExecutor(1) as engine:
        lone = UtteranceThreads[str](1, "lane")
        work.end["c"].set()
        other = engine.submit(lone.step, work.calls("c"))
        assert other.result(PATIENCE_S) == {"c": "C"}
        held = Work("gone", "waits")
        begun = engine.submit(lone.step, held.calls("gone"))
        assert held.begun["gone"].wait(PATIENCE_S)
        held.end["gone"].set()
        begun.result(PATIENCE_S)
    work.end["a"].set()


def test_what_is_forgotten_keeps_its_lane_until_it_ends_and_is_not_taken_up() -> None:
    lanes, work = UtteranceThreads[str](2, "lane"), Work("left", "short", "waits")
    work.end["short"].set()
    lanes.step(work.calls("left", "short"))
    lanes.forget("left")
    lanes.forget("left")
    work.end["left"].set()
    work.end["waits"].set()
    assert lanes.step(work.calls("waits")) == {"waits": "WAITS"}
    assert lanes.step({}) == {}


def test_an_error_stands_in_its_place() -> None:
    def fails() -> str:
        raise ValueError("bad")

    lanes = UtteranceThreads[str](2, "lane")
    assert isinstance(lanes.step({"bad": fails})["bad"], ValueError)
    assert lanes.step({"bad": lambda: "better"}) == {"bad": "better"}


@pytest.mark.parametrize(
    ("parts", "count"), [([], 0), (["x" * 500], 1), (["x" * 10] * 3, 3), (["x" * 60] * 3, 1), (["x" * 50] * 3, 2)]
)
def test_as_many_parts_as_are_expected_to_fit(parts: list[str], count: int) -> None:
    assert StepPace(0.1, 1000.0).fitting(parts) == count


def test_the_speed_is_measured() -> None:
    now = 0.0
    pace = StepPace(0.1, 1000.0, clock=lambda: now)
    for _ in range(50):
        with pace.measured(100):
            now += 0.05  # 2000 a second
    assert pace.fitting(["x" * 60] * 5) == 3
