"""What the gateway measures of requests, in Prometheus through Ray."""

from __future__ import annotations

from typing import Any

from ray.serve import metrics

from deployments.replica.metrics import MILLISECONDS, counter, histogram
from serve_app.gateway.speech.pacing_report import PacingReport

STAGE_TAGS: Any = ("model", "stage")  # Ray's annotation allows for one name only
FACTORS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0]
LEADS = [1.0, 20, 50, 100, 200, 350, 500, 1000, 2000, 5000]


class RequestMetrics:
    """Stage times of requests at the gateway. First sounds later than `first_sound_alarm_ms` are counted apart."""

    def __init__(self, first_sound_alarm_ms: float) -> None:
        self._alarm_s = first_sound_alarm_ms / 1000
        line = metrics.Gauge("motet_first_sound_alarm_ms", "A first sound later than this is late, in ms.")
        line.set(first_sound_alarm_ms)
        self._late = counter("motet_first_sounds_late", "First sounds later than the alarm line.", "")
        self._stages = metrics.Histogram(
            "motet_request_stage_ms",
            "Time of a stage of a request, in ms.",
            boundaries=MILLISECONDS,
            tag_keys=STAGE_TAGS,
        )
        self._first = histogram(
            "motet_first_sound_ms", "From a request to its first bytes of sound, in ms.", MILLISECONDS, ""
        )
        self._factors = histogram("motet_real_time_factor", "Seconds of steps for a second of sound.", FACTORS, "")
        self._leads = histogram(
            "motet_least_lead_ms", "The least that a listener had ahead of playback while sound came, in ms.", LEADS, ""
        )
        self._underruns = counter("motet_underruns", "Times that a listener ran dry.", "")
        self._concealed = counter("motet_concealed_seconds", "Seconds of sound that no engine made.", "")
        self._fallbacks = counter("motet_fallbacks", "Streams that another model had to finish.", "")

    def stage(self, model: str, stage: str, seconds: float) -> None:
        """How long a stage of one request took."""
        self._stages.observe(seconds * 1000, {"model": model, "stage": stage})

    def first_sound(self, model: str, seconds: float) -> None:
        """From the request to its first bytes of sound."""
        self._first.observe(seconds * 1000, {"model": model})
        if seconds > self._alarm_s:
            self._late.inc(1, {"model": model})

    def played(self, model: str, report: PacingReport, real_time_factor: float) -> None:
        """What became of a stream, and the seconds of steps that a second of its sound took. Sound out of the gateway's
        cache took none."""
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
