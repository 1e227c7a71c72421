"""The runner of captured steps: its bookkeeping with a recording backend, and one small real compilation."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from deployments.engines.graphs import (
    STEPS_BEFORE_CAPTURE,
    Bucket,
    Buffers,
    CapturedStep,
    CapturedSteps,
    CompiledBackend,
    Replay,
    Step,
    StepInput,
)

INPUTS = {"x": StepInput((2,), torch.float32, neutral=-1.0), "places": StepInput((), torch.int64, neutral=9)}


def double(inputs: Buffers, length: int) -> Tensor:
    return inputs["x"] * 2 + length


@dataclass
class Remembering:
    """Replays by running the step on the buffers, and remembers what was captured."""

    captured: list[Bucket] = field(default_factory=list)
    fails: bool = False
    buffers: dict[str, Tensor] = field(default_factory=dict)

    def capture(self, step: Step, buffers: Buffers, length: int) -> Replay:
        if self.fails:
            raise RuntimeError("no room")
        self.captured.append(Bucket(next(iter(buffers.values())).shape[0], length))
        self.buffers = dict(buffers)
        return lambda: step(buffers, length)


def runner(
    backend: Remembering | None,
    batches: tuple[int, ...] = (1, 4),
    lengths: tuple[int, ...] = (8, 32),
    most: Bucket | None = None,
) -> CapturedStep:
    ticks = iter(range(1000))
    return CapturedStep(double, INPUTS, batches, lengths, backend, most=most, clock=lambda: float(next(ticks)))


def rows(count: int) -> dict[str, Tensor]:
    return {"x": torch.ones(count, 2), "places": torch.zeros(count, dtype=torch.int64)}


def test_the_largest_bucket_is_captured_first() -> None:
    backend = Remembering()
    runner(backend).capture_all()
    assert backend.captured == [Bucket(4, 32), Bucket(4, 8), Bucket(1, 32), Bucket(1, 8)]


@pytest.mark.parametrize(
    ("batch", "length", "bucket"),
    [(1, 1, Bucket(1, 8)), (2, 8, Bucket(4, 8)), (4, 9, Bucket(4, 32)), (5, 8, None), (1, 33, None)],
)
def test_a_step_goes_to_the_smallest_bucket_that_holds_it(batch: int, length: int, bucket: Bucket | None) -> None:
    assert runner(None).bucket_for(batch, length) == bucket


def test_unused_rows_are_neutral_and_only_used_ones_come_back() -> None:
    backend = Remembering()
    step = runner(backend)
    step.capture(Bucket(4, 8))
    for count in (4, 2):
        assert torch.equal(step(rows(count), 5), torch.full((count, 2), 10.0))
    assert backend.buffers["x"].tolist() == [[1, 1], [1, 1], [-1, -1], [-1, -1]]
    assert backend.buffers["places"].tolist() == [0, 0, 9, 9]
    assert (step.counts.replayed, step.counts.plain, step.counts.hit_rate) == (2, 0, 1.0)


def test_what_fits_no_bucket_or_is_not_captured_yet_takes_the_plain_step() -> None:
    step = runner(Remembering())
    assert torch.equal(step(rows(2), 5), torch.full((2, 2), 7.0))
    assert torch.equal(step(rows(7), 5), torch.full((7, 2), 7.0))
    assert (step.counts.plain, step.counts.hit_rate) == (2, 0.0)


def test_what_was_asked_for_in_vain_is_captured_in_an_idle_moment() -> None:
    backend = Remembering()
    step = runner(backend)
    for _ in range(3):
        step(rows(2), 5)
    assert step.capture_one_wanted() and not step.capture_one_wanted()
    step(rows(2), 5)
    assert backend.captured == [Bucket(4, 8)] and step.counts.replayed == 1


@pytest.mark.parametrize(
    ("batch", "length", "added"),
    [(5, 8, Bucket(8, 8)), (2, 33, Bucket(4, 128)), (9, 300, Bucket(12, 300)), (13, 8, None), (1, 301, None)],
)
def test_a_shape_outside_the_buckets_gets_one_when_it_is_asked_for_often(
    batch: int, length: int, added: Bucket | None
) -> None:
    backend = Remembering()
    step = runner(backend, most=Bucket(12, 300))
    for _ in range(STEPS_BEFORE_CAPTURE - 1):
        step(rows(batch), length)
    assert not step.capture_one_wanted()
    step(rows(batch), length)
    assert step.capture_one_wanted() == (added is not None)
    step(rows(batch), length)
    assert backend.captured == ([added] if added else [])
    assert step.counts.replayed == len(backend.captured)


def test_what_cannot_be_captured_is_not_tried_again_until_everything_is_forgotten() -> None:
    step = runner(Remembering(fails=True))
    for _ in range(3):
        step(rows(1), 1)
        step.capture_one_wanted()
    assert step.counts.failures == 1


def test_a_capture_that_fails_leaves_the_plain_step_and_says_so() -> None:
    step = runner(Remembering(fails=True))
    assert not step.capture(Bucket(1, 8))
    assert torch.equal(step(rows(1), 1), torch.full((1, 2), 3.0))
    assert step.counts.failures == 1 and "no room" in step.counts.last_failure
    assert step.counts.capture_seconds == 1.0


def test_buffers_for_which_memory_is_short_are_a_failed_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> Tensor:
        raise torch.OutOfMemoryError("no memory")

    step = runner(Remembering())
    step(rows(1), 1)
    monkeypatch.setattr(torch, "full", no_memory)
    assert step.capture_one_wanted() and not step.capture(Bucket(1, 8))
    assert step.counts.failures == 2 and "no memory" in step.counts.last_failure
    step(rows(1), 1)
    assert not step.capture_one_wanted()


def test_the_switch_turns_everything_off() -> None:
    step = runner(None)
    step.capture_all()
    step(rows(1), 1)
    assert not step.capture_one_wanted()
    assert (step.counts.captures, step.counts.plain) == (0, 1)


def test_buckets_are_given_in_order() -> None:
    with pytest.raises(ValueError, match="smallest"):
        runner(None, batches=(4, 1))


def test_a_compiled_step_equals_the_plain_one_and_writes_where_it_does() -> None:
    memory = {name: torch.zeros(4, 3) for name in ("plain", "compiled")}

    def step(name: str) -> Step:
        def accumulate(inputs: Buffers, length: int) -> Tensor:
            kept = memory[name]
            kept.index_put_((torch.arange(inputs["x"].shape[0]), inputs["at"]), inputs["x"])
            return kept[: inputs["x"].shape[0], :length].softmax(-1)

        return accumulate

    inputs = {"x": StepInput((), torch.float32), "at": StepInput((), torch.int64, neutral=2)}
    compiled = CapturedStep(step("compiled"), inputs, (4,), (2,), CompiledBackend())
    compiled.capture(Bucket(4, 2))
    assert compiled.counts.failures == 0, compiled.counts.last_failure
    for value in (1.0, 2.0):
        taken = {"x": torch.tensor([value, 3.0, 4.0]), "at": torch.tensor([0, 1, 0])}
        torch.testing.assert_close(compiled(taken, 2), step("plain")(taken, 2))
    assert compiled.counts.replayed == 2
    torch.testing.assert_close(memory["compiled"][:3], memory["plain"][:3])


def test_several_steps_are_counted_and_captured_together() -> None:
    first, second = runner(Remembering()), runner(Remembering(fails=True))
    both = CapturedSteps((first, second))
    assert not both.capture_one_wanted()
    first(rows(2), 8)
    second(rows(2), 8)
    assert both.capture_one_wanted() and both.capture_one_wanted() and not both.capture_one_wanted()
    first(rows(2), 8)
    counts = both.counts
    assert (counts.replayed, counts.plain, counts.captures, counts.failures) == (1, 2, 1, 1)
    assert counts.last_failure == "RuntimeError: no room" and counts.hit_rate == pytest.approx(1 / 3)
