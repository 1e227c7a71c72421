"""The graph runner: captures a step once for each size of batch and length, and replays it with little overhead.

A step works on tensors of fixed shapes. The runner has one set of input buffers for each bucket. To replay, it copies the
rows in, fills the unused rows with neutral values, runs the graph, and returns the rows of the outputs. A shape that has no
captured bucket runs the plain step, so no stream waits for a capture. Missing buckets are captured while the engine is idle;
shapes outside all buckets are captured once enough steps asked for them.

There are two backends: CUDA graphs, and on a CPU a compiled step (Inductor).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from deployments.engines.graph_protocol import CaptureStats

WARM_UPS = 3
MOST_BUCKETS = 256
STEPS_BEFORE_CAPTURE = 64
"""Steps of a shape outside the buckets before a bucket is captured for it."""
LENGTH_GRAIN = 128
"""Positions: the lengths of such buckets are multiples of it, so there are few of them."""

TOLERANCE: Mapping[str, float] = {"float32": 1e-4, "bfloat16": 2e-2, "int8": 0.1}
"""The largest `relative_error` of a captured step against the plain step, by the precision of the weights.

A captured step fuses float32 operations and adds in another order, so results differ in the last bits of a float32 (2**-24 of
the number). Sums of a few thousand numbers over several layers raise this to at most 1e-4. Where such a bit decides a
rounding, the number moves by one step: by 2**-8 of itself in bfloat16, and some layers make 5 steps at most; by 1/127 of its
row's largest number in int8. An int8 result is within 0.05 of float32, captured or not, so two of them are within twice that.
Products of int8 alone are equal to the last bit.
"""

Buffers = Mapping[str, Tensor]
Step = Callable[[Buffers, int], Tensor]
"""Computes one step of all rows from (batch, ...) inputs that attends to the given number of positions; returns (batch, ...)
outputs. It may write to tensors of its own, such as a cache."""
Replay = Callable[[], Tensor]


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """A size of step: rows, and positions that they attend to."""

    batch: int
    length: int


@dataclass(frozen=True, slots=True)
class StepInput:
    """One input of the step: the shape and the dtype of a row, and the value of unused rows."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    neutral: float = 0


class CaptureBackend(Protocol):
    """Captures a step so that it can be replayed on the same buffers."""

    def capture(self, step: Step, buffers: Buffers, length: int) -> Replay:
        """Runs the step a few times, captures it, and returns the function that replays it."""


class CudaGraphBackend:
    """CUDA graphs with one memory pool for all buckets."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, step: Step, buffers: Buffers, length: int) -> Replay:
        """Warms up on a side stream, which CUDA graphs require, and captures."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                step(buffers, length)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = step(buffers, length)

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


class CompiledBackend:
    """Inductor with frozen weights: one compiled step for each bucket, with the shapes as constants.

    It uses as many threads as torch has at the time of the capture.
    """

    def capture(self, step: Step, buffers: Buffers, length: int) -> Replay:
        """Compiles the step and runs it until it is warm."""
        limits = torch._dynamo.config.patch({"recompile_limit": MOST_BUCKETS})
        with torch.no_grad(), torch._inductor.config.patch({"freezing": True}), limits:
            compiled = torch.compile(step, dynamic=False, fullgraph=True)
            for _ in range(WARM_UPS):
                compiled(buffers, length)

        def replay() -> Tensor:
            return compiled(buffers, length)

        return replay


@dataclass(slots=True)
class _CapturedBucket:
    buffers: dict[str, Tensor]
    replay: Replay


@dataclass(slots=True)
class CapturedStep:
    """Runs `step`, from a captured graph if there is one for its size.

    `backend` None means that nothing is captured. `most` is the largest size that the step can take: up to it, buckets are
    added for sizes that steps ask for often; None means that only the given buckets are captured. Warm-ups and unused rows
    run on the neutral inputs alone, so the neutral inputs must make the step write to a place that no stream reads.
    """

    step: Step
    inputs: Mapping[str, StepInput]
    batches: Sequence[int]
    lengths: Sequence[int]
    backend: CaptureBackend | None
    device: str = "cpu"
    most: Bucket | None = None
    clock: Callable[[], float] = time.monotonic
    counts: CaptureStats = field(default_factory=CaptureStats)
    _captured: dict[Bucket, _CapturedBucket] = field(default_factory=dict)
    _wanted: list[Bucket] = field(default_factory=list)
    _outside: Counter[Bucket] = field(default_factory=Counter)
    _failed: set[Bucket] = field(default_factory=set)

    def __post_init__(self) -> None:
        if list(self.batches) != sorted(self.batches) or list(self.lengths) != sorted(self.lengths):
            raise ValueError("Give the batches and lengths from the smallest to the largest.")

    @property
    def buckets(self) -> list[Bucket]:
        """Every bucket, the largest first, so that smaller ones reuse its memory."""
        return sorted((Bucket(b, n) for b in self.batches for n in self.lengths), reverse=True)

    def bucket_for(self, batch: int, length: int) -> Bucket | None:
        """The smallest bucket with this many rows and positions, or None."""
        row, column = bisect_left(self.batches, batch), bisect_left(self.lengths, length)
        if row == len(self.batches) or column == len(self.lengths):
            return None
        return Bucket(self.batches[row], self.lengths[column])

    def capture_all(self) -> None:
        """Captures every bucket, before the first stream."""
        for bucket in self.buckets:
            self.capture(bucket)

    def capture(self, bucket: Bucket) -> bool:
        """Captures one bucket. Returns False if that failed; steps of its size then stay plain."""
        if self.backend is None:
            return False
        started = self.clock()
        try:
            buffers = {
                name: torch.full((bucket.batch, *entry.shape), entry.neutral, dtype=entry.dtype, device=self.device)
                for name, entry in self.inputs.items()
            }
            with on_device(self.device):
                replay = self.backend.capture(self.step, buffers, bucket.length)
        except Exception as error:
            self._failed.add(bucket)
            self.counts.failures += 1
            self.counts.last_failure = f"{type(error).__name__}: {error}"
        else:
            self._captured[bucket] = _CapturedBucket(buffers, replay)
            self.counts.captures += 1
            self.batches = sorted({*self.batches, bucket.batch})
            self.lengths = sorted({*self.lengths, bucket.length})
        self.counts.capture_seconds += self.clock() - started
        return bucket in self._captured

    def capture_one_wanted(self) -> bool:
        """Captures one bucket that steps asked for and did not find; False if there is none. Called while the engine is
        idle."""
        if self.backend is None or not self._wanted:
            return False
        self.capture(self._wanted.pop(0))
        return True

    def __call__(self, rows: Buffers, length: int) -> Tensor:
        """One step of `rows`, (n, ...) tensors by input name, that attends to `length` positions: (n, ...) outputs.

        The outputs are the graph's own buffer: read them before the next step.
        """
        batch = next(iter(rows.values())).shape[0]
        bucket = self.bucket_for(batch, length)
        captured = self._captured.get(bucket) if bucket else None
        if captured is None:
            self._want(bucket or self._bucket_to_add(Bucket(batch, length)))
            self.counts.plain += 1
            return self.step(rows, length)
        for name, buffer in captured.buffers.items():
            buffer[batch:].fill_(self.inputs[name].neutral)
            buffer[:batch].copy_(rows[name])
        self.counts.replayed += 1
        return captured.replay()[:batch]

    def _bucket_to_add(self, shape: Bucket) -> Bucket | None:
        """The bucket to add for a size outside all buckets, once enough steps have asked for it."""
        if self.most is None or shape.batch > self.most.batch or shape.length > self.most.length:
            return None
        # Where the size fits in one dimension, use the existing bucket size of that dimension: a size in between would not be
        # found by others.
        row = next((batch for batch in self.batches if batch >= shape.batch), 1 << (shape.batch - 1).bit_length())
        grains = -(-shape.length // LENGTH_GRAIN) * LENGTH_GRAIN
        column = next((length for length in self.lengths if length >= shape.length), grains)
        bucket = Bucket(min(row, self.most.batch), min(column, self.most.length))
        self._outside[bucket] += 1
        return bucket if self._outside[bucket] >= STEPS_BEFORE_CAPTURE else None

    def _want(self, bucket: Bucket | None) -> None:
        if bucket and self.backend and bucket not in self._wanted and bucket not in self._failed:
            self._wanted.append(bucket)


@dataclass(frozen=True, slots=True)
class CapturedSteps:
    """The captured steps of an engine that has several, counted together."""

    steps: Sequence[CapturedStep]

    @property
    def counts(self) -> CaptureStats:
        """The sums of the counts, and the latest failure of the last step that has one."""
        parts = [step.counts for step in self.steps]
        return CaptureStats(
            replayed=sum(part.replayed for part in parts),
            plain=sum(part.plain for part in parts),
            captures=sum(part.captures for part in parts),
            failures=sum(part.failures for part in parts),
            capture_seconds=sum(part.capture_seconds for part in parts),
            last_failure=next((part.last_failure for part in reversed(parts) if part.last_failure), ""),
        )

    def capture_one_wanted(self) -> bool:
        """Captures one size that one of the steps asked for and did not find; False if there is none."""
        return any(step.capture_one_wanted() for step in self.steps)


def relative_error(made: Tensor, plain: Tensor) -> float:
    """The distance of `made` (..., n) from `plain`, as a share of the spread of `plain` (root mean square around each row's
    mean). Values below -1e8, which are ruled out as choices, do not count."""
    here = plain > -1e8
    counts = here.sum(dim=-1, keepdim=True).clamp_min(1)
    known = torch.where(here, plain, 0.0)
    spread = torch.where(here, known - known.sum(dim=-1, keepdim=True) / counts, 0.0)
    return float(torch.where(here, made - plain, 0.0).norm() / spread.norm().clamp_min(1e-9))


def backend_for(device: str) -> CaptureBackend:
    """The backend for a hardware class's device."""
    return CudaGraphBackend() if device == "cuda" else CompiledBackend()


@contextmanager
def on_device(device: str) -> Iterator[None]:
    """Inside, new tensors are created on the device, and no gradients are kept."""
    with torch.no_grad(), nullcontext() if device == "cpu" else torch.device(device):
        yield
