"""What a replica counts: in Prometheus through Ray, and as plain numbers in its report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray.serve import metrics

from deployments.engines.protocols import AudioChunk, CaptureStats, FinishReason, Memory

BATCH_SIZES = [1.0, 2, 3, 4, 6, 8, 12, 16, 24, 32]
SHARES = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75]
MEMORY_TAGS: Any = ("model", "kind")
REASON_TAGS: Any = ("model", "reason")
PER_SECOND = [5.0, 10, 12.5, 25, 50, 75, 100, 150, 200, 400, 800]
MILLISECONDS = [1.0, 2, 5, 10, 20, 50, 100, 200, 350, 500, 1000, 2000, 5000, 10000]


@dataclass(frozen=True, slots=True)
class StepCounts:
    """Steps so far, the items in them, the largest batch, and the seconds that they took."""

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
    """The sound that a replica made, and the part of it that nobody was left to hear."""

    def __init__(self, model: str) -> None:
        self.made_seconds = 0.0
        self.wasted_seconds = 0.0
        self.open_streams = 0
        self._made = counter("motet_audio_made_seconds", "Seconds of sound made.", model)
        self._wasted = counter("motet_audio_wasted_seconds", "Seconds of sound made for a client that had left.", model)
        self._first = histogram(
            "motet_replica_first_sound_ms",
            "From the replica's being asked to the first sound, in ms.",
            MILLISECONDS,
            model,
        )
        self._tokens = histogram(
            "motet_stream_tokens_per_second", "Units of the model's own a second, of one stream.", PER_SECOND, model
        )
        self._runaways = metrics.Counter(
            "motet_runaway_pieces", "Pieces of text in which the model had to be stopped.", tag_keys=REASON_TAGS
        )
        self._runaways.set_default_tags({"model": model})
        self._open = metrics.Gauge("motet_open_streams", "Utterances under way.", tag_keys=("model",))
        self._open.set_default_tags({"model": model})

    def first_sound(self, seconds: float) -> None:
        """A stream's first sound, so long after it was asked for."""
        self._first.observe(seconds * 1000)

    def tokens(self, per_second: float) -> None:
        """How fast a stream was made, in the model's own units."""
        self._tokens.observe(per_second)

    def made(self, seconds: float) -> None:
        """A step brought sound."""
        if seconds > 0:  # a counter takes no zero
            self.made_seconds += seconds
            self._made.inc(seconds)

    def wasted(self, seconds: float) -> None:
        """Sound was made and its client had left."""
        if seconds > 0:
            self.wasted_seconds += seconds
            self._wasted.inc(seconds)

    def stopped(self, reason: FinishReason) -> None:
        """The model did not find the end of a piece, and was stopped."""
        self._runaways.inc(1, {"reason": reason})

    def opened(self, change: int) -> None:
        """A stream began (1) or ended (-1)."""
        self.open_streams += change
        self._open.set(self.open_streams)


class StreamPace:
    """What one stream tells the metrics: when it first sounded, its tokens a second, and pieces that ran away."""

    def __init__(self, metrics: SpeechMetrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._asked = clock()
        self._sounded = False
        self._tokens = 0

    def step(self, chunk: AudioChunk) -> None:
        """A step brought the chunk."""
        self._tokens += chunk.tokens
        if len(chunk.samples) and not self._sounded:
            self._sounded = True
            self._metrics.first_sound(self._clock() - self._asked)
        if chunk.finish_reason != "stop":
            self._metrics.stopped(chunk.finish_reason)

    def ended(self) -> None:
        """The stream is over."""
        seconds = self._clock() - self._asked
        if self._tokens and seconds > 0:
            self._metrics.tokens(self._tokens / seconds)


class MemoryMetrics:
    """What a replica's engine holds of its device's memory."""

    def __init__(self, model: str) -> None:
        self._bytes = metrics.Gauge(
            "motet_engine_memory_bytes", "Held by the engine's library: active, cached or peak.", tag_keys=MEMORY_TAGS
        )
        self._bytes.set_default_tags({"model": model})

    def held(self, memory: Memory) -> None:
        """What is held now."""
        for kind in ("active", "cached", "peak"):
            self._bytes.set(getattr(memory, f"{kind}_bytes"), {"kind": kind})


class RecordMetrics:
    """The recorded steps of a replica's engine."""

    def __init__(self, model: str) -> None:
        self._share = metrics.Gauge(
            "motet_step_replayed_share",
            "Of the steps so far, the share that was replayed and not taken plainly.",
            tag_keys=("model",),
        )
        self._seconds = metrics.Gauge(
            "motet_step_recording_seconds", "Spent on recording steps so far.", tag_keys=("model",)
        )
        for gauge in (self._share, self._seconds):
            gauge.set_default_tags({"model": model})

    def told(self, records: CaptureStats) -> None:
        """What became of the steps so far."""
        self._share.set(records.hit_rate)
        self._seconds.set(records.capture_seconds)


def histogram(name: str, description: str, boundaries: list[float], model: str) -> metrics.Histogram:
    histogram = metrics.Histogram(name, description, boundaries=boundaries, tag_keys=("model",))
    histogram.set_default_tags({"model": model})
    return histogram


def counter(name: str, description: str, model: str) -> metrics.Counter:
    counter = metrics.Counter(name, description, tag_keys=("model",))
    counter.set_default_tags({"model": model})
    return counter
