"""Where a request's time went, stage by stage, for its client and for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

from serve_app.gateway.speech.pacing_report import PacingReport

Stage = Literal["first_step", "queue", "infer", "buffer", "encode", "write"]
STAGES: tuple[Stage, ...] = ("first_step", "queue", "infer", "buffer", "encode", "write")
"""From the request to its first chunk; waiting for steps at the replica's gate; the steps; waiting for the next frame, be
it for later chunks or for the listener; encoding; writing to the socket."""


class Recorder(Protocol):
    """Takes what a finished request measured."""

    def stage(self, model: str, stage: Stage, seconds: float) -> None:
        """How long a stage of one request took."""

    def first_sound(self, model: str, seconds: float) -> None:
        """From the request to its first bytes of sound."""

    def played(self, model: str, report: PacingReport, real_time_factor: float) -> None:
        """What became of a stream, and the seconds of steps that a second of its sound took."""


class Timeline:
    """Stages of one request, in seconds; each stage may be entered many times."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._started = clock()
        self._seconds: dict[Stage, float] = {}
        self.first_sound_seconds: float | None = None

    def add(self, stage: Stage, seconds: float) -> None:
        """Time that a stage took."""
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Times what is done inside."""
        began = self._clock()
        try:
            yield
        finally:
            self.add(stage, self._clock() - began)

    def sounded(self) -> None:
        """The first bytes of sound leave now."""
        if self.first_sound_seconds is None:
            self.first_sound_seconds = self._clock() - self._started

    @property
    def total_seconds(self) -> float:
        """Since the request came."""
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
        """Hands everything to the recorder."""
        for name, seconds in self._seconds.items():
            recorder.stage(model, name, seconds)
        if self.first_sound_seconds is not None:
            recorder.first_sound(model, self.first_sound_seconds)
        if report.sent_seconds > 0:
            recorder.played(model, report, self._seconds.get("infer", 0.0) / report.sent_seconds)
