"""The choice of items for the next step."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.replica.step_scheduling import (
    HEAD_START_S,
    Candidate,
    ListenerDeadline,
    StepRequest,
    choose,
    on_lanes,
    padding_share,
    recording_deadline,
)
from deployments.settings import StepSettings

NOW = 1000.0


def candidate(name: str, lasts_ms: float, cost: float = 10.0) -> Candidate[str]:
    return Candidate(name, StepRequest(NOW + lasts_ms / 1000, cost))


def chosen(*waiting: Candidate[str], **settings: object) -> list[str]:
    steps = StepSettings.model_validate(settings)
    return [c.item for c in choose(waiting, steps, NOW)]


def test_a_new_stream_outranks_those_that_are_ahead() -> None:
    assert chosen(candidate("ahead", 300), candidate("new", 0), max_batch_size=1) == ["new"]


def test_who_runs_dry_first_goes_first() -> None:
    streams = (candidate("b", 200), candidate("late", -50), candidate("a", 100))
    assert chosen(*streams, max_batch_size=2) == ["late", "a"]


def test_who_is_far_ahead_lets_the_urgent_go() -> None:
    streams = (candidate("urgent", 50), candidate("fine", 300), candidate("ahead", 900))
    assert chosen(*streams) == ["urgent", "fine"]
    assert chosen(candidate("fine", 300), candidate("ahead", 900)) == ["fine", "ahead"]
    assert chosen(candidate("ahead", 900)) == ["ahead"]


def test_an_engine_that_bounds_its_step_gets_who_is_ahead_as_well() -> None:
    streams = [
        Candidate(name, StepRequest(NOW + lasts_s, bounded=True))
        for name, lasts_s in (("ahead", 0.9), ("urgent", 0.05))
    ]
    assert [c.item for c in choose(streams, StepSettings(), NOW)] == ["urgent", "ahead"]


def test_a_player_begins_with_its_first_sound_and_goes_on_when_it_ran_dry() -> None:
    listener = ListenerDeadline(deadline_s=10.0)
    listener.add(0.0, 10.5)
    assert (listener.deadline_s, listener.plays) == (10.0, False)
    for seconds, now_s, deadline_s in ((0.25, 9.0, 9.25), (0.5, 9.1, 9.75), (0.5, 12.0, 12.5)):
        listener.add(seconds, now_s)
        assert listener.deadline_s == deadline_s
    goes_on = ListenerDeadline(deadline_s=10.0, plays=True)
    goes_on.add(1.0, 9.0)
    assert goes_on.deadline_s == 11.0


def test_lengths_that_would_mostly_be_padding_wait_for_another_batch() -> None:
    streams = (candidate("short", 0, cost=10), candidate("long", 1, cost=100), candidate("brief", 2, cost=12))
    assert chosen(*streams, max_padding_share=0.2) == ["short", "brief"]
    assert chosen(*streams, max_padding_share=0.9) == ["short", "long", "brief"]


def test_a_chat_reply_is_not_stuck_in_a_book() -> None:
    book = [candidate(f"chapter {n}", 1 + n, cost=250) for n in range(10)]
    assert chosen(candidate("reply", 0, cost=20), *book, max_padding_share=0.95) == ["reply"]
    assert len(chosen(candidate("reply", 0, cost=20), *book[:2], max_padding_share=0.95)) == 3


def test_on_lanes_a_free_one_is_taken_by_whoever_is_next() -> None:
    """Neither a length, nor a queue, nor a neighbour's hurry leaves a lane without work."""
    steps = on_lanes(StepSettings(max_batch_size=1, backlog_cost=1.0), 2)
    book = [candidate(f"chapter {n}", 5000 + n, cost=250) for n in range(3)]
    waiting = [*book, candidate("begun", -math.inf), candidate("new", 0, cost=1)]
    assert [c.item for c in choose(waiting, steps, NOW)] == ["begun", "new"]
    assert [c.item for c in choose([*book, candidate("new", 0, cost=1)], steps, NOW)] == ["new", "chapter 0"]


@pytest.mark.parametrize(("costs", "share"), [([], 0.0), ([5], 0.0), ([5, 5], 0.0), ([10, 5], 0.25), ([0, 0], 0.0)])
def test_padding_share(costs: list[float], share: float) -> None:
    assert padding_share(costs) == share


@given(
    st.lists(st.tuples(st.floats(-500, 2000), st.floats(1, 300)), max_size=40),
    st.integers(1, 16),
    st.floats(0, 0.9),
)
def test_whoever_waits_the_batch_is_sound(streams: list[tuple[float, float]], size: int, padding: float) -> None:
    waiting = [candidate(str(n), lasts, cost) for n, (lasts, cost) in enumerate(streams)]
    steps = StepSettings(max_batch_size=size, max_padding_share=padding)
    batch = choose(waiting, steps, NOW)
    assert len(batch) == len(set(batch))
    assert len(batch) <= size
    assert bool(batch) == bool(waiting)
    assert padding_share([c.request.cost for c in batch]) <= padding
    if waiting:
        assert batch[0].request.deadline_s == min(c.request.deadline_s for c in waiting)


def test_the_first_windows_of_a_recording_go_before_those_of_a_book_that_does_not_starve() -> None:
    now_s = 1000.0
    book = recording_deadline(100, now_s - 20)
    assert recording_deadline(0, now_s) < recording_deadline(1, now_s) < book
    assert recording_deadline(5, now_s) > book
    assert recording_deadline(100, now_s - HEAD_START_S) < recording_deadline(0, now_s)


def test_a_part_of_a_job_comes_after_those_of_requests_and_still_comes() -> None:
    now_s = 1000.0
    assert recording_deadline(0, now_s, 60.0) > recording_deadline(1000, now_s + 59.0)
    assert recording_deadline(0, now_s, 60.0) < recording_deadline(1000, now_s + 61.0)
