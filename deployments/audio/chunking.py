"""Cuts a recording of unknown length into overlapping chunks while it is being read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deployments.engines.protocols import Samples
from deployments.errors import fail


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """How a recording is cut: every chunk is `chunk_samples` long and shares `overlap_samples` with the next.

    The overlap is at most half a chunk, so that no sample is in more than two chunks.
    """

    chunk_samples: int
    overlap_samples: int

    def __post_init__(self) -> None:
        assert self.chunk_samples > 0 and 0 <= 2 * self.overlap_samples <= self.chunk_samples, self

    @property
    def hop(self) -> int:
        """Samples from the start of one chunk to the start of the next."""
        return self.chunk_samples - self.overlap_samples


def plan_chunks(chunk_seconds: float, overlap_seconds: float, sample_rate: int) -> ChunkPlan:
    """The plan for a recording at `sample_rate` Hz.

    Raises `MotetError` (invalid) with the param `chunk_seconds` if a chunk is not a positive number of samples, and with the
    param `overlap_seconds` if the overlap is negative or more than half a chunk.
    """
    if not 1 <= chunk_seconds * sample_rate < np.inf:
        raise fail(
            "invalid",
            f"Sound at {sample_rate} Hz cannot be cut into chunks of {chunk_seconds} s.",
            "Use a length above zero, for example 10.",
            param="chunk_seconds",
        )
    if not 0 <= overlap_seconds <= chunk_seconds / 2:
        raise fail(
            "invalid",
            f"An overlap of {overlap_seconds} s does not fit chunks of {chunk_seconds} s.",
            f"Use between 0 and {chunk_seconds / 2} s, half a chunk.",
            param="overlap_seconds",
        )
    chunk = round(chunk_seconds * sample_rate)
    # Half a chunk may round up to a sample more than half of the rounded chunk.
    return ChunkPlan(chunk, min(round(overlap_seconds * sample_rate), chunk // 2))


@dataclass(frozen=True, slots=True)
class PlannedChunk:
    """One chunk: `samples` (channels, n) float32, the first of which is sample `start` of the recording.

    Only the `last` chunk may be shorter than the plan's.
    """

    index: int
    start: int
    samples: Samples
    last: bool


class AudioChunker:
    """Cuts blocks of any size into the chunks of a plan.

    It holds the samples of one chunk. A full chunk is returned when further samples come, because only then is it known not
    to be the last. So the last chunk always has samples that the one before it has not.
    """

    def __init__(self, plan: ChunkPlan, channels: int) -> None:
        self._plan = plan
        self._held: Samples = np.empty((channels, plan.chunk_samples), np.float32)
        self._filled = 0
        self._index = 0
        self._finished = False

    def push(self, block: Samples) -> list[PlannedChunk]:
        """Takes the next samples, (channels, n) float32, and returns the chunks that they complete."""
        assert not self._finished, "push() after finish()"
        self._check(block)
        ready = []
        taken = 0
        while taken < block.shape[1]:
            if self._filled == self._plan.chunk_samples:
                ready.append(self._cut(last=False))
            taken += self._fill(block[:, taken:])
        return ready

    def finish(self) -> list[PlannedChunk]:
        """Ends the recording and returns its last chunk; nothing if there were no samples, or on a second call."""
        ended, self._finished = self._finished, True
        return [self._cut(last=True)] if self._filled and not ended else []

    def _check(self, block: Samples) -> None:
        channels = self._held.shape[0]
        if block.ndim != 2 or block.shape[0] != channels:
            raise fail(
                "invalid",
                f"A block has the shape {block.shape}, and the recording has {channels} channel(s).",
                "Send every block as (channels, samples) with the same number of channels.",
            )

    def _fill(self, samples: Samples) -> int:
        room = self._plan.chunk_samples - self._filled
        taken: int = min(room, samples.shape[1])
        self._held[:, self._filled : self._filled + taken] = samples[:, :taken]
        self._filled += taken
        return taken

    def _cut(self, *, last: bool) -> PlannedChunk:
        plan = self._plan
        chunk = PlannedChunk(self._index, self._index * plan.hop, self._held[:, : self._filled].copy(), last)
        self._held[:, : plan.overlap_samples] = self._held[:, plan.hop :]
        self._filled = plan.overlap_samples
        self._index += 1
        return chunk
