"""The gateway's Prometheus metrics of requests, exported through Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, get_args

from ray.serve import metrics

from deployments.engines.registry import Task
from deployments.errors import Kind
from deployments.replica.metrics import MILLISECONDS, counter, histogram, start_at_zero
from deployments.tasks.piece_quality import Fault, PieceQuality
from serve_app.gateway.request_context import RequestRecord
from serve_app.gateway.speech.pacing_report import PacingReport

STAGE_TAGS: Any = ("model", "stage")  # Ray annotates `tag_keys` as a tuple of one name
REQUEST_TAGS: Any = ("route", "model", "status")
FAILURE_TAGS: Any = ("model", "kind")
FAULT_TAGS: Any = ("model", "fault", "of")
QUEUE_TAGS: Any = ("model", "placement")
NO_MODEL = "none"
"""The model of a request that names no known one: Ray refuses empty tags."""
FACTORS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0]
LEADS = [1.0, 20, 50, 100, 200, 350, 500, 1000, 2000, 5000]


FIRST_STATUSES = ("200", "400", "429", "500", "503")
"""Statuses of requests that are exported before the first one."""
ROUTES: Mapping[Task, str] = {
    "speech": "/v1/audio/speech",
    "transcription": "/v1/audio/transcriptions",
    "separation": "/v1/audio/separations",
}


class RequestMetrics:
    """Implements `Recorder`. First audio later than `first_sound_alarm_ms` is counted separately. Counters of the `models`,
    by their tasks, are exported from the start."""

    def __init__(self, first_sound_alarm_ms: float, models: Mapping[str, Task] = MappingProxyType({})) -> None:
        self._alarm_s = first_sound_alarm_ms / 1000
        line = metrics.Gauge("motet_first_sound_alarm_ms", "First audio later than this is late, in ms.")
        line.set(first_sound_alarm_ms)
        self._late = counter("motet_first_sounds_late", "Requests whose first audio was later than the alarm.", "")
        self._stages = metrics.Histogram(
            "motet_request_stage_ms", "Time of a stage of a request, in ms.", MILLISECONDS, STAGE_TAGS
        )
        self._requests = metrics.Counter("motet_requests", "Requests that ended.", REQUEST_TAGS)
        self._failures = metrics.Counter("motet_failures", "Requests that failed, by kind of failure.", FAILURE_TAGS)
        self._first = histogram(
            "motet_first_sound_ms", "From a request to its first bytes of audio, in ms.", MILLISECONDS, ""
        )
        self._first_results = histogram(
            "motet_first_result_ms",
            "From a request to the first text of a transcription or the first audio of a separation, in ms.",
            MILLISECONDS,
            "",
        )
        self._factors = histogram("motet_real_time_factor", "Seconds of steps for a second of audio.", FACTORS, "")
        self._leads = histogram(
            "motet_least_lead_ms", "The least audio that a client had ahead of playback, in ms.", LEADS, ""
        )
        self._underruns = counter("motet_underruns", "Times that a client ran out of audio.", "")
        self._concealed = counter("motet_concealed_seconds", "Seconds of audio that no engine made.", "")
        self._live = metrics.Gauge("motet_live_sessions", "Open sessions of /v1/realtime.")
        self._final_texts = histogram(
            "motet_final_text_ms", "From the end of a turn to its whole text, in ms.", MILLISECONDS, ""
        )
        self._pieces = counter("motet_speech_pieces", "Pieces of speech that were checked.", "")
        self._faults = metrics.Counter(
            "motet_piece_faults", "Faults of pieces when they were first made, and of those that left.", FAULT_TAGS
        )
        self._made_again = counter("motet_pieces_made_again", "Pieces of speech that were made again.", "")
        self._fallbacks = counter("motet_fallbacks", "Streams that the fallback voice finished.", "")
        self._live.set(0)
        for model, task in models.items():
            self._start(model, task)

    def _start(self, model: str, task: Task) -> None:
        for status in FIRST_STATUSES:
            start_at_zero(self._requests, route=ROUTES[task], model=model, status=status)
        for kind in get_args(Kind):
            start_at_zero(self._failures, model=model, kind=kind)
        if task != "speech":
            return
        for metric in (self._late, self._underruns, self._concealed, self._pieces, self._made_again, self._fallbacks):
            start_at_zero(metric, model=model)
        for fault in get_args(Fault):
            for of in ("first", "left"):
                start_at_zero(self._faults, model=model, fault=fault, of=of)

    def stage(self, model: str, stage: str, seconds: float) -> None:
        """The time of one stage of a request, in seconds."""
        self._stages.observe(seconds * 1000, {"model": model, "stage": stage})

    def first_sound(self, model: str, seconds: float) -> None:
        """The time from a request to its first bytes of audio, in seconds."""
        self._first.observe(seconds * 1000, {"model": model})
        if seconds > self._alarm_s:
            self._late.inc(1, {"model": model})

    def played(self, model: str, report: PacingReport, real_time_factor: float) -> None:
        """A stream of speech ended. `real_time_factor` is seconds of engine steps for a second of audio; 0 for audio from the
        gateway's cache, which is not counted."""
        tags = {"model": model}
        if real_time_factor > 0:
            self._factors.observe(real_time_factor, tags)
        if report.least_lead_seconds is not None:
            self._leads.observe(report.least_lead_seconds * 1000, tags)
        if report.underruns:
            self._underruns.inc(report.underruns, tags)
        if report.concealed_seconds:
            self._concealed.inc(report.concealed_seconds, tags)
        if report.fallback:
            self._fallbacks.inc(1, tags)

    def pieces_checked(self, model: str, qualities: Sequence[PieceQuality]) -> None:
        """The pieces of a stream were checked."""
        if qualities:
            self._pieces.inc(len(qualities), {"model": model})
        if again := sum(quality.attempts > 1 for quality in qualities):
            self._made_again.inc(again, {"model": model})
        for quality in qualities:
            for of, faults in (("first", quality.first_faults), ("left", quality.faults)):
                for fault in faults:
                    self._faults.inc(1, {"model": model, "fault": fault, "of": of})

    def request(self, record: RequestRecord, route: str, status: int) -> None:
        """A request ended, with an HTTP status or a WebSocket close code."""
        model = record.model or NO_MODEL
        self._requests.inc(1, {"route": route, "model": model, "status": str(status)})
        if record.first_result_ms is not None:
            self._first_results.observe(record.first_result_ms, {"model": model})
        if record.failure:
            self._failures.inc(1, {"model": model, "kind": record.failure})

    def live_sessions(self, count: int) -> None:
        """So many live sessions are open."""
        self._live.set(count)

    def final_text(self, model: str, seconds: float) -> None:
        """The time from the end of a turn to its whole text, in seconds."""
        self._final_texts.observe(seconds * 1000, {"model": model})


class QueueMetrics:
    """How much waits in front of each placement, in this gateway."""

    def __init__(self, placements: Sequence[str] = ()) -> None:
        self._requests = metrics.Gauge("motet_queued_requests", "Requests that are open.", QUEUE_TAGS)
        self._seconds = metrics.Gauge("motet_queued_seconds_of_audio", "Audio that waits to be made, in s.", QUEUE_TAGS)
        for placement in placements:
            self.changed(placement, 0, 0.0)

    def changed(self, placement: str, requests: int, seconds: float) -> None:
        """A request began or ended. `seconds` of audio wait."""
        tags = {"model": placement.partition("@")[0], "placement": placement}
        self._requests.set(requests, tags)
        self._seconds.set(seconds, tags)
