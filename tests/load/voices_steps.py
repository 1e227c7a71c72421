"""The step of a voice on one device: captured beside plain, a batch beside single steps, and streams in a batch.

It compares our engine with itself only, with random weights, so it runs where no other package is installed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from deployments.engines.graphs import Bucket, CapturedStep, backend_for
from serve_app.bench.frame import Figure, Sheet, Target, at_least, at_most, interleaved, ratio, spread
from tests.load.speakers import Speakers
from tests.load.voice_runs import run_together, using_threads
from tests.load.voices_soak import most_megabytes
from tests.load.voices_sopro import THREADS


class SteppedContest(Speakers, Protocol):
    """A model on a device, whose step can be recorded."""

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""

    @property
    def step(self) -> CapturedStep:
        """The engine's step."""

    @property
    def length(self) -> int:
        """Positions that a measured step looks back at."""

    def inputs(self, streams: int) -> dict[str, Tensor]:
        """Of one step, in the middle of a text."""

    def difference(self, plain: Tensor, recorded: Tensor) -> float:
        """How far two results of the same step are apart, in percent."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What is measured: steps of `steps` rows, `recorded` ones among them, and `streams` at once. `batch_gain` is the target
    of a step of 8 against 8 of one; `notes` stand beside figures of their name."""

    rounds: int
    steps: tuple[int, ...]
    recorded: tuple[int, ...]
    streams: tuple[int, ...]
    batch_gain: Target | None = None
    notes: Mapping[str, str] = field(default_factory=dict)


def wanted(plan: StepPlan) -> list[Figure]:
    """The figures of a plan."""
    figures = [Figure("building the model", "s"), Figure("threads", "")]
    for count in plan.steps:
        figures.append(Figure(f"step of {count}, plain", "ms"))
        if count in plan.recorded:
            figures.append(Figure(f"step of {count}, recorded", "ms"))
            figures.append(Figure(f"recorded against plain, {count}", "x", at_least(1.22) if count == 8 else None))
            figures.append(Figure(f"recorded differs from plain, {count}", "%", at_most(5)))
    figures.append(Figure("a step of 8 against 8 of one", "x", plan.batch_gain))
    for count in plan.streams:
        figures.append(Figure(f"{count} streams", "audio s/s"))
        figures.append(Figure(f"{count} streams, ended a second", "1/s"))
        figures.append(Figure(f"{count} streams, first audio p95", "ms"))
    return [*figures, Figure("memory", "MB")]


def measure(sheet: Sheet, contest: SteppedContest, plan: StepPlan) -> None:
    """Fills in the figures, but for the time that building the model took."""
    with sheet.measuring("how many threads"):
        threads = _best_threads(contest)
        sheet.put("threads", threads)
    with using_threads(threads), torch.no_grad():
        with sheet.measuring("the step"):
            _measure_steps(sheet, contest, plan)
        with sheet.measuring("streams side by side"):
            _measure_streams(sheet, contest, plan)
    sheet.put("memory", _megabytes(contest.device), plan.notes.get("memory", ""))


def _best_threads(contest: SteppedContest) -> int:
    """How many make a plain step of eight fastest, of three each."""
    inputs = contest.inputs(8)

    def seconds(threads: int) -> float:
        with using_threads(threads), torch.no_grad():
            return _seconds(partial(contest.step.step, inputs, contest.length), contest.device)

    seconds(1)
    times = interleaved({f"{threads}": partial(seconds, threads) for threads in THREADS}, rounds=3)
    return min(THREADS, key=lambda threads: min(times[f"{threads}"]))


def _measure_steps(sheet: Sheet, contest: SteppedContest, plan: StepPlan) -> None:
    step, length = contest.step, contest.length
    step.batches, step.lengths = plan.steps, (length,)
    step.backend = backend_for(contest.device) if plan.recorded else None
    variants: dict[str, Callable[[], float]] = {}
    for count in plan.steps:
        inputs = contest.inputs(count)
        plain, replayed = partial(step.step, inputs, length), partial(step, inputs, length)
        variants[f"{count} plain"] = partial(_seconds, plain, contest.device)
        if count in plan.recorded:
            _record(sheet, step, Bucket(count, length))
            sheet.put(f"recorded differs from plain, {count}", contest.difference(plain(), replayed().clone()))
            variants[f"{count} recorded"] = partial(_seconds, replayed, contest.device)
    times = interleaved(variants, plan.rounds)
    for count in plan.steps:
        sheet.put(f"step of {count}, plain", 1000 * spread(times[f"{count} plain"]).p50)
        if count in plan.recorded:
            gain = ratio(times[f"{count} plain"], times[f"{count} recorded"])
            sheet.put(f"step of {count}, recorded", 1000 * spread(times[f"{count} recorded"]).p50)
            sheet.put(f"recorded against plain, {count}", gain.p50, str(gain))
    kind = "recorded" if {1, 8} <= {*plan.recorded} else "plain"
    gain = ratio([8 * seconds for seconds in times[f"1 {kind}"]], times[f"8 {kind}"])
    sheet.put("a step of 8 against 8 of one", gain.p50, f"{gain}; both {kind}")


def _record(sheet: Sheet, step: CapturedStep, bucket: Bucket) -> None:
    with sheet.measuring(f"recording the step of {bucket.batch}"):
        if not step.capture(bucket):
            raise RuntimeError(step.counts.last_failure)


def _seconds(function: Callable[[], Any], device: str) -> float:
    started = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _measure_streams(sheet: Sheet, contest: SteppedContest, plan: StepPlan) -> None:
    run_together(contest, 1, chunks=1)  # the clip is read once
    for count in plan.streams:
        made = run_together(contest, count)
        streams = f"{count} streams"
        sheet.put(streams, made.rate, f"a listener each needs {count}")
        for name, value in (
            (f"{streams}, ended a second", count / made.seconds),
            (f"{streams}, first audio p95", 1000 * spread(made.first_audio).p95),
        ):
            sheet.put(name, value, plan.notes.get(name, ""))


def _megabytes(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return most_megabytes()
