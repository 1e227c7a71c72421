"""One point of the curve: how late text is with a number of sessions of one model, and whether both targets are met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice

from deployments.text.word_error_rate import errors
from serve_app.bench.hearing_corpus import Corpus
from serve_app.bench.hearing_service import transcribe
from serve_app.bench.live_client_processes import ClientProcesses
from serve_app.bench.live_dictation import DictationLoad, LoadResult, dictate
from serve_app.bench.live_recordings import LiveRecording
from serve_app.bench.live_service import LiveService
from serve_app.bench.load import quantile

PARTIAL_S, FINAL_S = 1.0, 0.7
"""Targets, p95: text behind the speech, and the final text behind the end of a turn."""


@dataclass(frozen=True, slots=True)
class Point:
    """The results of sessions at once. Quantiles are p50 and p95 in seconds; rates of word errors are in percent."""

    sessions: int
    partials: tuple[float, float]
    committed: tuple[float, float]
    finals: tuple[float, float]
    words: int
    shown: int
    turns: int
    missing: int
    failed: tuple[str, ...]
    live_errors: float
    offline_errors: float
    service_cores: float
    client_cores: float
    late_p95_s: float

    @property
    def holds(self) -> bool:
        """Whether all sessions were heard, and both targets are met."""
        complete = not self.missing and not self.failed and self.turns > 0
        return complete and self.partials[1] <= PARTIAL_S and self.finals[1] <= FINAL_S

    def __str__(self) -> str:
        state = "holds" if self.holds else f"{len(self.failed)} refused or failed" if self.failed else "too late"
        return f"{self.sessions}: {self.partials[1]:.2f} s, {self.finals[1] * 1000:.0f} ms, {state}"


class Stage:
    """The service, its clients, the recordings of their sessions, and what the service hears in them without a hurry."""

    def __init__(self, service: LiveService, clients: ClientProcesses, recordings: Sequence[LiveRecording]) -> None:
        self.service = service
        self.clients = clients
        self._recordings = recordings
        self._offline: dict[tuple[str, int], str] = {}

    def offline(self, model: str, position: int) -> str:
        """The text of a recording by `POST /v1/audio/transcriptions`."""
        key = (model, position)
        if key not in self._offline:
            recording = Corpus(self._recordings[position].samples, "", (), (), "").encoded("flac")
            self._offline[key] = transcribe(self.service.program, recording, model).body.decode()
        return self._offline[key]

    def measure(self, name: str, model: str, sessions: int) -> Point:
        """Runs sessions of the model that the service calls `name`; `model` hears the same recordings without a hurry."""
        positions = tuple(islice(cycle(range(len(self._recordings))), sessions))
        chosen = tuple(self._recordings[position] for position in positions)
        load = DictationLoad(self.service.program, self.service.pids, name, chosen)
        result = self.clients.run(dictate, load)
        offline = {position: self.offline(model, position) for position in positions}
        return point(result, chosen, [offline[position] for position in positions])


def point(result: LoadResult, recordings: Sequence[LiveRecording], offline: Sequence[str]) -> Point:
    """Sums up the sessions. A session that failed counts in no quantile, and its point does not hold."""
    done = [number for number, session in enumerate(result.sessions) if not session.failure]
    sessions = [result.sessions[number] for number in done]
    said = [recordings[number].text for number in done]
    partials = [*chain.from_iterable(session.partials_s for session in sessions)]
    finals = [*chain.from_iterable(session.finals_s for session in sessions)]
    return Point(
        sessions=len(result.sessions),
        partials=middle_and_high(partials),
        committed=middle_and_high([*chain.from_iterable(session.committed_s for session in sessions)]),
        finals=middle_and_high(finals),
        words=sum(len(recordings[number].words) for number in done),
        shown=len(partials),
        turns=len(finals),
        missing=sum(session.missing for session in sessions),
        failed=tuple(session.failure for session in result.sessions if session.failure),
        live_errors=errors(said, [session.text for session in sessions]).rate * 100,
        offline_errors=errors(said, [offline[number] for number in done]).rate * 100,
        service_cores=result.service_cores,
        client_cores=result.client_cores,
        late_p95_s=quantile([*chain.from_iterable(session.late_s for session in sessions)], 0.95),
    )


def middle_and_high(values: Sequence[float]) -> tuple[float, float]:
    """p50 and p95; NaN for no values."""
    return quantile(values, 0.5), quantile(values, 0.95)


def most_that_hold(points: Mapping[int, Point]) -> int:
    """The most sessions that hold, if all fewer ones that were measured hold too; 0 if none."""
    most = 0
    for sessions in sorted(points):
        if not points[sessions].holds:
            break
        most = sessions
    return most


def next_count(points: Mapping[int, Point], grid: Sequence[int]) -> int | None:
    """The number of sessions to measure next to find the most that hold: up the grid until one does not, then between. None
    if it is found."""
    most = most_that_hold(points)
    above = [sessions for sessions in points if sessions > most]
    if not above:
        return next((sessions for sessions in grid if sessions > most), None)
    middle = (most + min(above)) // 2
    return middle if middle > most else None
