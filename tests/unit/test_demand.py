"""Replicas for the demand: the cheapest class starts first and ends last, and classes that do not start are skipped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.demand import (
    FORGET_S,
    AutoscalingSettings,
    DemandBoard,
    ModelKey,
    PlacementCapacity,
    PlacementLoad,
    PlacementScaling,
    replicas_wanted,
)

CPU = PlacementCapacity("m@cpu", cost=1, least=1, most=3, seconds_each=10, running=1)
CUDA = PlacementCapacity("m@cuda", cost=5, least=0, most=2, seconds_each=100, running=0)


def wanted(
    seconds: float, cpu: PlacementCapacity = CPU, cuda: PlacementCapacity = CUDA, lateness: float = 0.0
) -> tuple[int, int]:
    """Replicas of both classes, the dear one listed first."""
    found = replicas_wanted({"m@cuda": (cuda, PlacementLoad(0.0)), "m@cpu": (cpu, PlacementLoad(seconds, lateness))})
    return found["m@cpu"], found["m@cuda"]


def test_the_cheapest_class_is_filled_first_and_the_dearest_is_emptied_first() -> None:
    loads = [0, 5, 11, 25, 30, 31, 130, 131, 5000, 131, 31, 30, 11, 0]
    assert [wanted(load) for load in loads] == [
        (1, 0), (1, 0), (2, 0), (3, 0), (3, 0), (3, 1), (3, 1), (3, 2), (3, 2), (3, 2), (3, 1), (3, 0), (2, 0), (1, 0),
    ]  # fmt: skip


def test_load_is_counted_wherever_it_waits() -> None:
    found = replicas_wanted({"m@cuda": (CUDA, PlacementLoad(25.0)), "m@cpu": (CPU, PlacementLoad(20.0))})
    assert found == {"m@cpu": 3, "m@cuda": 1}


def test_late_first_sounds_need_more_than_what_runs_and_at_most_twice_that() -> None:
    assert wanted(1.0, lateness=0.9) == (1, 0)
    assert wanted(1.0, lateness=1.1) == (2, 0)
    assert wanted(1.0, lateness=50.0) == (2, 0)
    assert wanted(0.0, lateness=50.0) == (1, 0)


def test_what_does_not_come_up_is_not_counted_on_but_still_wanted() -> None:
    stuck = PlacementCapacity("m@cpu", cost=1, least=1, most=3, seconds_each=10, running=1, stuck=True)
    assert wanted(25.0, cpu=stuck) == (3, 1)
    assert wanted(10.0, cpu=stuck) == (1, 0)


@given(st.floats(0, 1e6), st.floats(0, 100))
def test_bounds_hold_and_more_load_never_means_fewer_replicas(seconds: float, more: float) -> None:
    less_cpu, less_cuda = wanted(seconds)
    more_cpu, more_cuda = wanted(seconds + more)
    assert 1 <= less_cpu <= more_cpu <= 3
    assert 0 <= less_cuda <= more_cuda <= 2


def test_a_placement_that_falls_silent_is_forgotten() -> None:
    board, model = DemandBoard(), ModelKey("motet", "m")
    board.report(model, CPU, PlacementLoad(1.0), 0.0)
    board.report(model, CUDA, PlacementLoad(2.0), FORGET_S)
    board.report(ModelKey("motet", "other"), CPU, PlacementLoad(3.0), FORGET_S)
    assert set(board.placements(model, FORGET_S)) == {"m@cpu", "m@cuda"}
    assert board.placements(model, FORGET_S + 1) == {"m@cuda": (CUDA, PlacementLoad(2.0))}


def test_at_most_a_quarter_of_the_replicas_end_at_a_time() -> None:
    """A queue is short just because all replicas run. Found by `motet plan cold-morning`."""
    scaling = PlacementScaling(AutoscalingSettings(max_replicas=12, target_queued_seconds_of_audio=10), DemandBoard())

    def needed(seconds: float, target: int) -> int:
        model = ModelKey("motet", "m")
        return scaling.wanted(model, "m@cuda", target, target, PlacementLoad(seconds), now_s=0.0)

    falling = [12]
    while falling[-1]:
        falling.append(needed(0.0, falling[-1]))
    assert falling == [12, 9, 6, 4, 3, 2, 1, 0]
    assert needed(110.0, 12) == 11
    assert needed(110.0, 3) == 11
