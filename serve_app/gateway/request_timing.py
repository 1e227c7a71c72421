"""Where the time of a request goes, stage by stage, for its client and for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

from deployments.tasks.piece_quality import PieceQuality
from deployments.tracing.spans import SPAN
from serve_app.gateway.request_context import RequestRecord, current_request
from serve_app.gateway.speech.pacing_report import PacingReport

Stage = Literal["first_step", "queue", "infer", "buffer", "encode", "write"]
STAGES: tuple[Stage, ...] = ("first_step", "queue", "infer", "buffer", "encode", "write")
"""`first_step` lasts from the request to its first chunk. `queue` is the wait at the replica's step gate, `infer` the steps,
`buffer` the wait for the next frame (for later chunks or for the client)."""


class Recorder(Protocol):
    """Takes the measurements of finished requests."""

    def stage(self, model: str, stage: Stage, seconds: float) -> None:
        """The time of one stage of a request, in seconds."""

    def first_sound(self, model: str, seconds: float) -> None:
        """The time from a request to its first bytes of audio, in seconds."""

    def played(self, model: str, report: PacingReport, real_time_factor: float) -> None:
        """A stream of speech ended. `real_time_factor` is seconds of engine steps for a second of audio; 0 without steps."""

    def pieces_checked(self, model: str, qualities: Sequence[PieceQuality]) -> None:
        """The pieces of a stream were checked."""

    def request(self, record: RequestRecord, route: str, status: int) -> None:
        """A request ended."""

    def live_sessions(self, count: int) -> None:
        """The number of live sessions that are open now."""

    def final_text(self, model: str, seconds: float) -> None:
        """The time from the end of a turn to its whole text, in seconds."""


class RequestTiming:
    """The stages of one request. Each may be entered many times; all times are in seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._started = clock()
        self._seconds: dict[Stage, float] = {}
        self.first_sound_seconds: float | None = None

    def add(self, stage: Stage, seconds: float) -> None:
        """Adds to the time of a stage."""
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Adds the time spent inside to a stage."""
        began = self._clock()
        try:
            yield
        finally:
            self.add(stage, self._clock() - began)

    def sounded(self) -> None:
        """Notes that the first bytes of audio leave now. Later calls have no effect."""
        if self.first_sound_seconds is None:
            self.first_sound_seconds = self._clock() - self._started

    @property
    def total_seconds(self) -> float:
        """Seconds since the request came."""
        return self._clock() - self._started

    def milliseconds(self) -> dict[str, float]:
        """Every stage so far and the total, in ms."""
        stages: dict[str, float] = {
            name: round(s * 1000, 2) for name in STAGES if (s := self._seconds.get(name)) is not None
        }
        if self.first_sound_seconds is not None:
            stages["first_sound"] = round(self.first_sound_seconds * 1000, 2)
        return stages | {"total": round(self.total_seconds * 1000, 2)}

    def server_timing(self) -> str:
        """The value of a `Server-Timing` header (W3C Server Timing): durations are in ms."""
        return ", ".join(f"{name};dur={value:g}" for name, value in self.milliseconds().items())

    def record(self, model: str, report: PacingReport, recorder: Recorder) -> None:
        """Hands everything to the recorder and to the request's record."""
        request = current_request()
        request.seconds_of_audio = round(report.sent_seconds, 3)
        request.finish_reason = report.finish_reason
        if span := SPAN.get():
            span.set(**{f"{stage}_ms": milliseconds for stage, milliseconds in self.milliseconds().items()})
        if self.first_sound_seconds is not None:
            request.first_sound_ms = round(self.first_sound_seconds * 1000, 1)
        for name, seconds in self._seconds.items():
            recorder.stage(model, name, seconds)
        if self.first_sound_seconds is not None:
            recorder.first_sound(model, self.first_sound_seconds)
        if report.sent_seconds > 0:
            recorder.played(model, report, self._seconds.get("infer", 0.0) / report.sent_seconds)
