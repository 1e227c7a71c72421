"""The captured-step runner: a step recorded once for each size of batch and length, and replayed with little overhead.

A step works on tensors of fixed shapes. The runner owns one set of input buffers for each bucket, fills the part that the
rows of a step do not use with neutral values, copies the rows in, replays, and hands out the rows of the outputs. A shape
that fits no bucket, or whose bucket has not been captured yet, takes the plain step, so that nobody waits for a capture. Such
shapes are captured in idle moments; those outside the buckets once they have been asked for often.

Two backends do the recording: CUDA Graphs, and on a CPU a compiled step (Inductor).
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

from deployments.engines.protocols import CaptureStats

WARM_UPS = 3
MOST_BUCKETS = 256
OFTEN = 64
"""Steps of a shape outside the buckets after which a bucket for it is worth recording."""
LENGTH_GRAIN = 128
"""Positions: the lengths of such buckets are multiples of it, so that there are few."""

WITHIN: Mapping[str, float] = {"float32": 1e-4, "bfloat16": 2e-2, "int8": 0.1}
"""How far the outputs of a recorded step may be from the plain one's, by the precision of the weights: what `apart` gives.

The recorded step fuses float32 operations and adds in another order, so both differ in the last bits of a float32, 2**-24 of
a number, which sums of a few thousand numbers and some layers raise to 1e-4 at most. Where such a bit decides a rounding, a
number moves by a step: 2**-8 of it in bfloat16, some layers of which make 5 steps at most; 1/127 of its row's largest in
eight bits. Eight bits are within 0.05 of float32, recorded or not, so both are within twice that of each other. Products of
whole bytes alone are equal to the last bit.
"""

Buffers = Mapping[str, Tensor]
Step = Callable[[Buffers, int], Tensor]
"""Computes one step of all rows from (batch, ...) inputs, given how many positions of the past to look at; gives
(batch, ...) outputs. It may write to tensors of its own, such as a cache."""
Replay = Callable[[], Tensor]


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """How many rows, and how many positions of the past."""

    batch: int
    length: int


@dataclass(frozen=True, slots=True)
class StepInput:
    """One input of the step: the shape of a row, its type, and the value that stands in rows nobody uses."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    neutral: float = 0


class CaptureBackend(Protocol):
    """Records a step so that it can be replayed on the same buffers."""

    def capture(self, step: Step, buffers: Buffers, length: int) -> Replay:
        """Runs the step some times, records it, and gives what replays it."""


class CudaGraphBackend:
    """CUDA Graphs with one memory pool for all buckets."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, step: Step, buffers: Buffers, length: int) -> Replay:
        """Warms up on a side stream, as CUDA Graphs ask for, and records."""
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
    """Inductor with frozen weights. One compiled step serves a bucket; the shapes are its constants.

    It runs on as many threads as torch has when it is captured.
    """

    def capture(self, step: Step, buffers: Buffers, length: int) -> Replay:
        """Compiles, and runs the compiled step until it is warm."""
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
    """Runs `step`, recorded where it can be.

    `backend` None turns recording off. `most` is the largest shape that the step can take: up to it, buckets are added for
    shapes that are asked for often; without it there are the given ones only. Rehearsals, and the rows of a bucket that a
    step leaves unused, run on the neutral inputs alone, so these must point a step that writes somewhere to a place that no
    stream reads.
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
    _recordings: dict[Bucket, _CapturedBucket] = field(default_factory=dict)
    _wanted: list[Bucket] = field(default_factory=list)
    _outside: Counter[Bucket] = field(default_factory=Counter)
    _given_up: set[Bucket] = field(default_factory=set)

    def __post_init__(self) -> None:
        if list(self.batches) != sorted(self.batches) or list(self.lengths) != sorted(self.lengths):
            raise ValueError("Buckets are given from the smallest to the largest.")

    @property
    def buckets(self) -> list[Bucket]:
        """Every bucket, the largest first, so that smaller ones find room in its memory."""
        return sorted((Bucket(b, n) for b in self.batches for n in self.lengths), reverse=True)

    def bucket_for(self, batch: int, length: int) -> Bucket | None:
        """The smallest bucket that holds so many rows of such a past, or None."""
        row, column = bisect_left(self.batches, batch), bisect_left(self.lengths, length)
        if row == len(self.batches) or column == len(self.lengths):
            return None
        return Bucket(self.batches[row], self.lengths[column])

    def capture_all(self) -> None:
        """Captures every bucket, before the first stream comes."""
        for bucket in self.buckets:
            self.capture(bucket)

    def capture(self, bucket: Bucket) -> bool:
        """Captures one bucket, or leaves it to the plain step when that fails. Tells whether it is recorded now."""
        if self.backend is None:
            return False
        started = self.clock()
        buffers = {
            name: torch.full((bucket.batch, *entry.shape), entry.neutral, dtype=entry.dtype, device=self.device)
            for name, entry in self.inputs.items()
        }
        try:
            with on_device(self.device):
                replay = self.backend.capture(self.step, buffers, bucket.length)
        except Exception as error:
            self._given_up.add(bucket)
            self.counts.failures += 1
            self.counts.last_failure = f"{type(error).__name__}: {error}"
        else:
            self._recordings[bucket] = _CapturedBucket(buffers, replay)
            self.counts.captures += 1
            self.batches = sorted({*self.batches, bucket.batch})
            self.lengths = sorted({*self.lengths, bucket.length})
        self.counts.capture_seconds += self.clock() - started
        return bucket in self._recordings

    def forget(self) -> None:
        """Drops every recording, for instance because weights have changed; what was recorded is wanted again, and what could
        not be may be tried once more."""
        self._given_up.clear()
        self._wanted += [bucket for bucket in self._recordings if bucket not in self._wanted]
        self._recordings.clear()

    def capture_one_wanted(self) -> bool:
        """For an idle moment: captures one bucket that steps asked for in vain. False when there is none."""
        if self.backend is None or not self._wanted:
            return False
        self.capture(self._wanted.pop(0))
        return True

    def __call__(self, rows: Buffers, length: int) -> Tensor:
        """One step of `rows` ((n, ...) tensors by input name) that looks at `length` positions: (n, ...) outputs.

        The outputs are the recording's own buffer: read them before the next step.
        """
        batch = next(iter(rows.values())).shape[0]
        bucket = self.bucket_for(batch, length)
        recording = self._recordings.get(bucket) if bucket else None
        if recording is None:
            self._want(bucket or self._often_outside(Bucket(batch, length)))
            self.counts.plain += 1
            return self.step(rows, length)
        for name, buffer in recording.buffers.items():
            buffer[batch:].fill_(self.inputs[name].neutral)
            buffer[:batch].copy_(rows[name])
        self.counts.replayed += 1
        return recording.replay()[:batch]

    def _often_outside(self, shape: Bucket) -> Bucket | None:
        """The bucket to add for a shape that none holds, when it has been asked for often enough."""
        if self.most is None or shape.batch > self.most.batch or shape.length > self.most.length:
            return None
        # In the direction in which it fits it takes what there is: a size in between would be missed by others.
        row = next((batch for batch in self.batches if batch >= shape.batch), 1 << (shape.batch - 1).bit_length())
        grains = -(-shape.length // LENGTH_GRAIN) * LENGTH_GRAIN
        column = next((length for length in self.lengths if length >= shape.length), grains)
        bucket = Bucket(min(row, self.most.batch), min(column, self.most.length))
        self._outside[bucket] += 1
        return bucket if self._outside[bucket] >= OFTEN else None

    def _want(self, bucket: Bucket | None) -> None:
        if bucket and self.backend and bucket not in self._wanted and bucket not in self._given_up:
            self._wanted.append(bucket)


def apart(made: Tensor, plain: Tensor) -> float:
    """How far (..., n) outputs are from others, as a share of the spread of these (root mean square about each row's mean).
    What is ruled out, below -1e8, does not count."""
    here = plain > -1e8
    counts = here.sum(dim=-1, keepdim=True).clamp_min(1)
    known = torch.where(here, plain, 0.0)
    spread = torch.where(here, known - known.sum(dim=-1, keepdim=True) / counts, 0.0)
    return float(torch.where(here, made - plain, 0.0).norm() / spread.norm().clamp_min(1e-9))


def backend_for(device: str) -> CaptureBackend:
    """The backend of a hardware class's device."""
    return CudaGraphBackend() if device == "cuda" else CompiledBackend()


@contextmanager
def on_device(device: str) -> Iterator[None]:
    """New tensors are made on the device, and nothing is kept for training."""
    with torch.no_grad(), nullcontext() if device == "cpu" else torch.device(device):
        yield
