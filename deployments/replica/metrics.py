"""A replica's metrics: exported to Prometheus through Ray, and as plain numbers in its report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from deployments.engines.graph_protocol import CaptureStats
from deployments.engines.limits import Memory
from deployments.engines.protocols import AudioChunk, FinishReason
from deployments.replica.metric import start_at_zero
from deployments.replica.metric_table import (
    AUDIO_MADE_SECONDS,
    AUDIO_WASTED_SECONDS,
    ENGINE_MEMORY_BYTES,
    OPEN_STREAMS,
    REPLICA_FIRST_SOUND_MS,
    RUNAWAY_PIECES,
    STEP_BATCH_SIZE,
    STEP_CAPTURE_SECONDS,
    STEP_MS,
    STEP_PADDING_SHARE,
    STEP_REPLAYED_SHARE,
    STEP_WAIT_MS,
    STREAM_TOKENS_PER_SECOND,
)


@dataclass(frozen=True, slots=True)
class StepCounts:
    """Steps so far, the items in them, the largest batch, and the time of all steps in seconds."""

    steps: int = 0
    items: int = 0
    largest: int = 0
    seconds: float = 0.0

    def after(self, items: int, seconds: float) -> StepCounts:
        """The counts with one more step."""
        return StepCounts(self.steps + 1, self.items + items, max(self.largest, items), self.seconds + seconds)


class StepMetrics:
    """Batch sizes, padding, waits and step times of one replica."""

    def __init__(self, model: str) -> None:
        self.counts = StepCounts()
        self._sizes = STEP_BATCH_SIZE.export(model=model)
        self._padding = STEP_PADDING_SHARE.export(model=model)
        self._waits = STEP_WAIT_MS.export(model=model)
        self._times = STEP_MS.export(model=model)

    def waited(self, seconds: float) -> None:
        """A caller passed the gate."""
        self._waits.observe(seconds * 1000)

    def stepped(self, items: int, seconds: float, padding_share: float) -> None:
        """A step ended."""
        self.counts = self.counts.after(items, seconds)
        self._sizes.observe(items)
        self._padding.observe(padding_share)
        self._times.observe(seconds * 1000)


class SpeechMetrics:
    """The audio that a replica made, and how much of it was for clients that had left."""

    def __init__(self, model: str) -> None:
        self.made_seconds = 0.0
        self.wasted_seconds = 0.0
        self.open_streams = 0
        self._made = AUDIO_MADE_SECONDS.export(model=model)
        self._wasted = AUDIO_WASTED_SECONDS.export(model=model)
        self._first = REPLICA_FIRST_SOUND_MS.export(model=model)
        self._tokens = STREAM_TOKENS_PER_SECOND.export(model=model)
        self._runaways = RUNAWAY_PIECES.export(model=model)
        self._open = OPEN_STREAMS.export(model=model)
        self._open.set(0)
        for metric in (self._made, self._wasted):
            start_at_zero(metric)
        for reason in get_args(FinishReason):
            if reason != "stop":
                start_at_zero(self._runaways, reason=reason)

    def first_sound(self, seconds: float) -> None:
        """The time from a request to its first audio, in seconds."""
        self._first.observe(seconds * 1000)

    def tokens(self, per_second: float) -> None:
        """The speed of a stream, in model tokens per second."""
        self._tokens.observe(per_second)

    def made(self, seconds: float) -> None:
        """A step made `seconds` of audio."""
        if seconds > 0:  # Ray refuses to add 0
            self.made_seconds += seconds
            self._made.inc(seconds)

    def wasted(self, seconds: float) -> None:
        """`seconds` of audio were made for a client that had left."""
        if seconds > 0:
            self.wasted_seconds += seconds
            self._wasted.inc(seconds)

    def stopped(self, reason: FinishReason) -> None:
        """The model was stopped at a piece of text."""
        self._runaways.inc(1, {"reason": reason})

    def opened(self, change: int) -> None:
        """A stream started (1) or ended (-1)."""
        self.open_streams += change
        self._open.set(self.open_streams)


class StreamPace:
    """The metrics of one stream: time to first audio, tokens per second, and pieces at which the model was stopped."""

    def __init__(self, metrics: SpeechMetrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._asked = clock()
        self._sounded = False
        self._tokens = 0

    def step(self, chunk: AudioChunk) -> None:
        """A step made this chunk."""
        self._tokens += chunk.tokens
        if len(chunk.samples) and not self._sounded:
            self._sounded = True
            self._metrics.first_sound(self._clock() - self._asked)
        if chunk.finish_reason != "stop":
            self._metrics.stopped(chunk.finish_reason)

    def ended(self) -> None:
        """The stream ended."""
        seconds = self._clock() - self._asked
        if self._tokens and seconds > 0:
            self._metrics.tokens(self._tokens / seconds)


class MemoryMetrics:
    """The device memory that a replica's engine holds."""

    def __init__(self, model: str) -> None:
        self._bytes = ENGINE_MEMORY_BYTES.export(model=model)

    def held(self, memory: Memory) -> None:
        """Sets the memory held now."""
        for kind in ("active", "cached", "peak"):
            self._bytes.set(getattr(memory, f"{kind}_bytes"), {"kind": kind})


class CaptureMetrics:
    """The captured graphs of a replica's engine."""

    def __init__(self, model: str) -> None:
        self._share = STEP_REPLAYED_SHARE.export(model=model)
        self._seconds = STEP_CAPTURE_SECONDS.export(model=model)
        for gauge in (self._share, self._seconds):
            gauge.set(0)

    def set(self, stats: CaptureStats) -> None:
        """Sets the metrics to the stats so far."""
        self._share.set(stats.hit_rate)
        self._seconds.set(stats.capture_seconds)
