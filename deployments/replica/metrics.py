"""A replica's metrics: exported to Prometheus through Ray, and as plain numbers in its report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from ray.serve import metrics

from deployments.engines.graph_protocol import CaptureStats
from deployments.engines.limits import Memory
from deployments.engines.protocols import AudioChunk, FinishReason

BATCH_SIZES = [1.0, 2, 3, 4, 6, 8, 12, 16, 24, 32]
SHARES = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75]
MEMORY_TAGS: Any = ("model", "kind")
REASON_TAGS: Any = ("model", "reason")
PER_SECOND = [5.0, 10, 12.5, 25, 50, 75, 100, 150, 200, 400, 800]
MILLISECONDS = [1.0, 2, 5, 10, 20, 50, 100, 200, 350, 500, 1000, 2000, 5000, 10000]


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
        self._sizes = histogram("motet_step_batch_size", "Items in a step.", BATCH_SIZES, model)
        self._padding = histogram("motet_step_padding_share", "Share of a padded batch that is padding.", SHARES, model)
        self._waits = histogram("motet_step_wait_ms", "Wait at the gate, in ms.", MILLISECONDS, model)
        self._times = histogram("motet_step_ms", "Time of a step, in ms.", MILLISECONDS, model)

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
        self._made = counter("motet_audio_made_seconds", "Seconds of audio made.", model)
        self._wasted = counter("motet_audio_wasted_seconds", "Seconds of audio made for a client that had left.", model)
        self._first = histogram(
            "motet_replica_first_sound_ms",
            "From a request at the replica to its first audio, in ms.",
            MILLISECONDS,
            model,
        )
        self._tokens = histogram(
            "motet_stream_tokens_per_second", "Model tokens per second of one stream.", PER_SECOND, model
        )
        self._runaways = metrics.Counter(
            "motet_runaway_pieces", "Pieces of text at which the model was stopped.", tag_keys=REASON_TAGS
        )
        self._runaways.set_default_tags({"model": model})
        self._open = metrics.Gauge("motet_open_streams", "Utterances under way.", tag_keys=("model",))
        self._open.set_default_tags({"model": model})
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
        self._bytes = metrics.Gauge(
            "motet_engine_memory_bytes", "Held by the engine's library: active, cached or peak.", tag_keys=MEMORY_TAGS
        )
        self._bytes.set_default_tags({"model": model})

    def held(self, memory: Memory) -> None:
        """Sets the memory held now."""
        for kind in ("active", "cached", "peak"):
            self._bytes.set(getattr(memory, f"{kind}_bytes"), {"kind": kind})


class CaptureMetrics:
    """The captured graphs of a replica's engine."""

    def __init__(self, model: str) -> None:
        self._share = metrics.Gauge(
            "motet_step_replayed_share",
            "Share of all steps that replayed a captured graph.",
            tag_keys=("model",),
        )
        self._seconds = metrics.Gauge(
            "motet_step_capture_seconds", "Seconds spent on capturing graphs.", tag_keys=("model",)
        )
        for gauge in (self._share, self._seconds):
            gauge.set_default_tags({"model": model})

    def set(self, stats: CaptureStats) -> None:
        """Sets the metrics to the stats so far."""
        self._share.set(stats.hit_rate)
        self._seconds.set(stats.capture_seconds)


def start_at_zero(metric: metrics.Counter, **tags: str) -> None:
    """Exports a counter before its first event: a series that is not there is neither 0 nor an alert."""
    metric._record(0, tags or None)  # `inc` of Ray 2.60 refuses 0


def histogram(name: str, description: str, boundaries: list[float], model: str) -> metrics.Histogram:
    histogram = metrics.Histogram(name, description, boundaries=boundaries, tag_keys=("model",))
    histogram.set_default_tags({"model": model})
    return histogram


def counter(name: str, description: str, model: str) -> metrics.Counter:
    counter = metrics.Counter(name, description, tag_keys=("model",))
    counter.set_default_tags({"model": model})
    return counter
