"""The gateway's Prometheus metrics of requests, exported through Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import get_args

from deployments.engines.registry import Task
from deployments.errors import Kind
from deployments.replica.metric import start_at_zero
from deployments.tasks.piece_quality import Fault, PieceQuality
from serve_app.gateway import metric_table as table
from serve_app.gateway.request_context import RequestRecord
from serve_app.gateway.speech.pacing_report import PacingReport

NO_MODEL = "none"
"""The model of a request that names no known one: Ray refuses empty tags."""
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
        table.FIRST_SOUND_ALARM_MS.export().set(first_sound_alarm_ms)
        self._late = table.FIRST_SOUNDS_LATE.export()
        self._stages = table.REQUEST_STAGE_MS.export()
        self._requests = table.REQUESTS.export()
        self._failures = table.FAILURES.export()
        self._first = table.FIRST_SOUND_MS.export()
        self._first_results = table.FIRST_RESULT_MS.export()
        self._factors = table.REAL_TIME_FACTOR.export()
        self._leads = table.LEAST_LEAD_MS.export()
        self._underruns = table.UNDERRUNS.export()
        self._concealed = table.CONCEALED_SECONDS.export()
        self._live = table.LIVE_SESSIONS.export()
        self._final_texts = table.FINAL_TEXT_MS.export()
        self._pieces = table.SPEECH_PIECES.export()
        self._faults = table.PIECE_FAULTS.export()
        self._made_again = table.PIECES_MADE_AGAIN.export()
        self._fallbacks = table.FALLBACKS.export()
        self._live.set(0)
        for model, task in models.items():
            self.start(model, task)

    def start(self, model: str, task: Task) -> None:
        """Exports the counters of a model."""
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
        self._requests = table.QUEUED_REQUESTS.export()
        self._seconds = table.QUEUED_SECONDS_OF_AUDIO.export()
        for placement in placements:
            self.changed(placement, 0, 0.0)

    def changed(self, placement: str, requests: int, seconds: float) -> None:
        """A request began or ended. `seconds` of audio wait."""
        tags = {"model": placement.partition("@")[0], "placement": placement}
        self._requests.set(requests, tags)
        self._seconds.set(seconds, tags)
