"""What a gateway knows of placements, and in which order requests try them."""

from __future__ import annotations

from cluster.placement_state import PlacementState, in_order, in_turn, is_skipped


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def states(clock: Clock, *kinds: str, elastic: bool = False) -> list[PlacementState]:
    return [PlacementState("m", kind, elastic=elastic, cost=float(n), clock=clock) for n, kind in enumerate(kinds)]


def names(placed: list[PlacementState]) -> list[str]:
    return [each.kind for each in placed]


def test_the_one_that_is_expected_to_answer_first_comes_first() -> None:
    clock = Clock()
    placed = states(clock, "cpu", "cuda")
    assert names(in_order(placed)) == ["cpu", "cuda"]
    clock.now_s = 1.0
    placed[0].note_answer(0.0, 1)
    clock.now_s = 1.1
    placed[1].note_answer(1.0, 1)
    assert names(in_order(placed)) == ["cuda", "cpu"]
    placed[0].suspect()
    assert names(in_order(placed)) == ["cuda", "cpu"]
    assert [(each.kind, last) for each, last in in_turn(placed, preferred="m@cpu")] == [("cuda", False), ("cpu", True)]


def test_one_without_replicas_is_skipped_while_another_has_some() -> None:
    clock = Clock()
    cpu, cuda = placed = states(clock, "cpu", "cuda", elastic=True)
    cuda.suspect()
    assert is_skipped(cuda, placed) and not is_skipped(cpu, placed)
    cpu.suspect()
    assert not is_skipped(cuda, placed)
    cuda.note_life(clock())
    assert cuda.alive and cuda.first_answer_s is None


def test_requests_under_way_count() -> None:
    clock = Clock()
    (cpu,) = states(clock, "cpu")
    clock.now_s = 2.0
    cpu.note_answer(1.0, 1)
    with cpu.request():
        assert cpu.expected_s(1.0) == 2.0
    assert cpu.expected_s(1.0) == 1.0
