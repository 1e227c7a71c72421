"""The metrics of a stream and of a request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from deployments.engines.protocols import AudioChunk
from deployments.replica.metric import keep_gauges
from deployments.replica.metrics import CaptureMetrics, MemoryMetrics, SpeechMetrics, StreamPace
from serve_app.gateway.metrics import QueueMetrics, RequestMetrics
from serve_app.gateway.request_context import RequestRecord
from serve_app.monitoring.metrics import METRICS


class Written:
    """Stands for the metrics of a replica."""

    def __init__(self) -> None:
        self.firsts: list[float] = []
        self.paces: list[float] = []
        self.stops: list[str] = []

    def first_sound(self, seconds: float) -> None:
        self.firsts.append(seconds)

    def tokens(self, per_second: float) -> None:
        self.paces.append(per_second)

    def stopped(self, reason: str) -> None:
        self.stops.append(reason)


class Clock:
    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


def chunk(samples: int, tokens: int) -> AudioChunk:
    return AudioChunk(np.zeros(samples, np.float32), 24_000, 0, "", False, tokens)


def test_a_stream_tells_its_first_sound_and_its_pace() -> None:
    written, clock = Written(), Clock()
    pace = StreamPace(written, clock)  # type: ignore[arg-type]
    clock.now += 0.25
    pace.step(chunk(0, 0))
    assert written.firsts == []
    clock.now += 0.25
    pace.step(chunk(100, 30))
    pace.step(chunk(100, 20))
    clock.now += 0.5
    pace.ended()
    assert written.firsts == [0.5]
    assert written.paces == [50.0]


def test_a_model_that_does_not_count_has_no_pace() -> None:
    written, clock = Written(), Clock()
    pace = StreamPace(written, clock)  # type: ignore[arg-type]
    pace.step(chunk(100, 0))
    clock.now += 1.0
    pace.ended()
    assert written.paces == []


def test_a_piece_that_ran_away_is_counted_by_its_reason() -> None:
    written = Written()
    pace = StreamPace(written, Clock())  # type: ignore[arg-type]
    for reason in ("stop", "silence", "stop", "length"):
        pace.step(replace(chunk(100, 1), finish_reason=reason))
    assert written.stops == ["silence", "length"]


class Kept:
    """Stands for any of Ray's metrics."""

    every: ClassVar[dict[str, list[float]]] = {}
    started: ClassVar[list[tuple[str, dict[str, str]]]] = []
    """Counters that were exported before their first event."""

    def __init__(self, name: str, *_: Any, **__: Any) -> None:
        self._name = name
        self._values = Kept.every.setdefault(name, [])

    def set_default_tags(self, tags: dict[str, str]) -> None:
        pass

    def observe(self, value: float, tags: dict[str, str] | None = None) -> None:
        self._values.append(value)

    inc = set = observe

    def _record(self, value: float, tags: dict[str, str] | None = None) -> None:
        assert value == 0
        Kept.started.append((self._name, tags or {}))


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> type[Kept]:
    Kept.every, Kept.started = {}, []
    for kind in ("Histogram", "Counter", "Gauge"):
        monkeypatch.setattr(f"ray.serve.metrics.{kind}", Kept)
    return Kept


def test_every_counter_is_exported_before_its_first_event(kept: type[Kept]) -> None:
    RequestMetrics(500, {"voice": "speech", "ear": "transcription"})
    SpeechMetrics("voice")
    QueueMetrics(["voice@cpu"])
    counters = {metric.name for metric in (*METRICS["gateway"], *METRICS["replica"]) if metric.kind == "counter"}
    assert {name for name, _ in kept.started} == counters
    refused = {"route": "/v1/audio/transcriptions", "model": "ear", "status": "429"}
    assert ("motet_requests", refused) in kept.started
    assert kept.every["motet_queued_requests"] == kept.every["motet_queued_seconds_of_audio"] == [0]
    assert kept.every["motet_live_sessions"] == kept.every["motet_open_streams"] == [0]


def test_every_gauge_that_starts_at_zero_is_set_at_the_start(kept: type[Kept]) -> None:
    RequestMetrics(500, {"voice": "speech"})
    SpeechMetrics("voice")
    CaptureMetrics("voice")
    MemoryMetrics("voice")
    QueueMetrics(["voice@cpu"])
    gauges = [metric for metric in (*METRICS["gateway"], *METRICS["replica"]) if metric.kind == "gauge"]
    assert {metric.name for metric in gauges if kept.every[metric.name]} == {
        metric.name for metric in gauges if metric.start == "zero"
    }


def test_first_sounds_past_the_line_are_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    Kept.every = {}
    for kind in ("Histogram", "Counter", "Gauge"):
        monkeypatch.setattr(f"ray.serve.metrics.{kind}", Kept)
    written = RequestMetrics(first_sound_alarm_ms=500)
    for seconds in (0.1, 0.5, 0.51, 2.0):
        written.first_sound("hibari", seconds)
    assert Kept.every["motet_first_sound_alarm_ms"] == [500]
    assert len(Kept.every["motet_first_sounds_late"]) == 2
    assert len(Kept.every["motet_first_sound_ms"]) == 4


def test_requests_and_failures_are_counted_by_model_and_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[str, dict[str, str]]] = []

    class Counter(Kept):
        def inc(self, value: float, tags: dict[str, str]) -> None:  # type: ignore[override]
            counted.append((self._name, tags))

    for kind in ("Histogram", "Gauge"):
        monkeypatch.setattr(f"ray.serve.metrics.{kind}", Kept)
    monkeypatch.setattr("ray.serve.metrics.Counter", Counter)
    written = RequestMetrics(first_sound_alarm_ms=500)
    written.request(RequestRecord(model="hibari"), "/v1/audio/speech", 200)
    written.request(RequestRecord(failure="not_found"), "other", 404)
    assert counted == [
        ("motet_requests", {"route": "/v1/audio/speech", "model": "hibari", "status": "200"}),
        ("motet_requests", {"route": "other", "model": "none", "status": "404"}),
        ("motet_failures", {"model": "none", "kind": "not_found"}),
    ]


def test_gauges_are_set_again(kept: type[Kept]) -> None:
    """Ray drops a gauge that was not set in the last 20 s."""
    queues = QueueMetrics(["voice@cpu"])
    queues.changed("voice@cpu", 3, 12.5)
    keep_gauges()
    assert kept.every["motet_queued_requests"] == [0, 3, 3]
    assert kept.every["motet_queued_seconds_of_audio"] == [0, 12.5, 12.5]
