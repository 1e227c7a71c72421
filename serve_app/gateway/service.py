"""What the routes share: the models, the queues and the stores of one gateway replica."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response

from deployments.audio.stated_length import estimated_seconds
from deployments.catalogue.installed import RegistrySettings
from deployments.errors import fail
from deployments.replica.chunker import CuttingTask
from deployments.settings import (
    RecordingSettings,
    RevoicingSettings,
    SeparationSettings,
    SpilloverSettings,
    SubtitleSettings,
    WindowSettings,
)
from deployments.tasks.separation import Merged, SeparationTask
from deployments.tasks.transcription import TranscriptionTask, TranscriptWindow
from deployments.tracing.spans import Tracer
from serve_app.edge.addresses import client_network, is_loopback
from serve_app.edge.settings import CLIENT_HEADER, SecuritySettings
from serve_app.gateway.api_keys import key_digest
from serve_app.gateway.draining import Drain
from serve_app.gateway.enhancement_load import LiveEnhancements
from serve_app.gateway.jobs.context import JOB
from serve_app.gateway.jobs.records import Viewer
from serve_app.gateway.jobs.settings import JobSettings
from serve_app.gateway.key_ring import KeyRing
from serve_app.gateway.live.sessions import LiveSessions
from serve_app.gateway.loaded_models import LoadedModels
from serve_app.gateway.model_additions import ModelAdditions
from serve_app.gateway.placement_reports import PlacementReports
from serve_app.gateway.recent_requests import RecentRequests
from serve_app.gateway.request_context import RequestRecord
from serve_app.gateway.request_timing import Recorder
from serve_app.gateway.routing.admission import Admission, Ticket
from serve_app.gateway.routing.directory import ModelDirectory
from serve_app.gateway.routing.open_limits import EarlyAnswers, SessionLimit
from serve_app.gateway.settings import LimitSettings, SpeechSettings
from serve_app.gateway.speech.models import SpeechModels
from serve_app.gateway.speech.piece_cache import PieceCache
from serve_app.gateway.speech.planner import SpeechPlanner
from serve_app.gateway.voice_store import EVERYONE, VoiceStore

THIS_MACHINE = "this machine"
"""The owner of jobs that this machine made, in a service without API keys."""


AUDIO_HELPERS = "audio-helper"
"""The queue of recordings that need no model; those of models have the names of placements."""


class UploadedRecording(Protocol):
    """A recording in a form, which may still be arriving: see `Upload`."""

    head: bytes

    @property
    def likely_size(self) -> int:
        """Its bytes, or those that have arrived."""

    def blocks(self, block_bytes: int) -> AsyncIterator[bytes]:
        """Its bytes as they arrive."""


class Separates(Protocol):
    """Separates recordings: see `SeparationGraph`."""

    def run(
        self,
        upload: AsyncIterable[bytes],
        task: SeparationTask,
        directory: ModelDirectory,
        ticket: Ticket,
        model: str,
        needed: Callable[[], bool] = lambda: False,
        silent_gaps: Sequence[str] = (),
    ) -> AsyncGenerator[Merged]:
        """The separated recording, in order. Its session is kept while the next part is `needed` later."""


class Transcribes(Protocol):
    """Transcribes recordings: see `TranscriptionGraph`."""

    def run(
        self,
        upload: AsyncIterable[bytes],
        task: TranscriptionTask,
        directory: ModelDirectory,
        ticket: Ticket,
        model: str,
    ) -> AsyncGenerator[TranscriptWindow]:
        """The transcript, window by window in order."""


class Analyzes(Protocol):
    """Finds something in recordings without a model: see `RecordingAnalysis`."""

    def run(
        self, upload: AsyncIterable[bytes], task: CuttingTask, directory: ModelDirectory, ticket: Ticket
    ) -> AsyncGenerator[Any]:
        """The tickets of the task, in order."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """The part of the configuration that requests depend on. `max_ongoing_requests` is for one gateway replica."""

    speech: SpeechSettings
    recordings: RecordingSettings
    windows: WindowSettings
    subtitles: SubtitleSettings
    separation: SeparationSettings
    revoicing: RevoicingSettings
    spillover: SpilloverSettings
    limits: LimitSettings
    security: SecuritySettings
    jobs: JobSettings
    max_ongoing_requests: int
    strict: bool


@dataclass(frozen=True, slots=True)
class Service:
    """One gateway replica's view of the service. It knows Ray only through the handles in `directory`, `transcripts` and
    `separations`."""

    settings: ServiceSettings
    directory: ModelDirectory
    transcripts: Transcribes | None
    """None if no model transcribes."""
    separations: Separates | None
    """None if no model separates."""
    analyses: Analyzes | None
    """None if no model takes recordings, so that there are no audio helpers."""
    admission: Admission
    cache: PieceCache
    recorder: Recorder
    voices: VoiceStore
    sessions: SessionLimit
    early: EarlyAnswers
    live: LiveSessions
    enhancements: LiveEnhancements
    keys: KeyRing
    registry: RegistrySettings
    loaded: LoadedModels
    additions: ModelAdditions
    drain: Drain = field(default_factory=Drain)
    reports: PlacementReports = field(default_factory=PlacementReports)
    recent: RecentRequests = field(default_factory=RecentRequests)
    tracer: Tracer | None = None
    """None while nothing is traced."""
    identity: str = ""
    """What all gateways of this service have in common, and those of no other one that runs."""

    def ended(self, record: RequestRecord, route: str, status: int) -> None:
        """A request ended, with an HTTP status or a WebSocket close code."""
        self.ended_of_job(record, route, status)
        self.recent.add(record)

    def ended_of_job(self, record: RequestRecord, route: str, status: int) -> None:
        """A request of a job ended."""
        if not record.outlives_client:
            self.directory.forget(record)
        self.recorder.request(record, route, status)

    def admit(self, name: str, headers: Headers, seconds: float, reach: float = math.inf) -> Ticket:
        """A place in the queue of the model `name` for about `seconds` of audio, of which at most `reach` are queued at any
        time. Raises `MotetError` (overloaded; unavailable if the model is frozen)."""
        self.directory.ensure_answers_soon(name)
        model, settings = self.directory.models[name], self.settings.speech.admission
        task_wait_s = {
            "speech": settings.max_wait_s,
            "transcription": self.settings.windows.max_wait_s,
            "separation": self.settings.separation.max_wait_s,
        }[model.task]
        key = self._owner(headers)
        placements = [placed.name for placed in self.directory.placements(name)]
        if job := JOB.get():
            ticket = job.progress = self.admission.admit_job(placements[0], seconds)
            return ticket
        wait_s = model.max_wait_s or task_wait_s
        patient = model.task != "speech" or model.grows  # a queue is what starts more replicas
        return self.admission.admit(placements, key, seconds, wait_s, reach, patient=patient)

    async def analysed(self, file: UploadedRecording, task: CuttingTask, headers: Headers) -> list[Any]:
        """All tickets of a task that needs no model, at least one. Raises `MotetError`: unsupported if the service has no
        audio helpers, overloaded, and what the task raises."""
        if self.analyses is None:
            cause = "No model of this service takes recordings, so it does not read them."
            raise fail("unsupported", cause, "Add a model for transcription or separation to the configuration.")
        key = self._owner(headers)
        seconds = estimated_seconds(file.head, file.likely_size)
        ticket = self.admission.admit([AUDIO_HELPERS], key, seconds, self.settings.windows.max_wait_s, patient=True)
        upload = file.blocks(self.settings.recordings.block_bytes)
        async with aclosing(self.analyses.run(upload, task, self.directory, ticket)) as tickets:
            return [each async for each in tickets]

    async def separated(
        self,
        file: UploadedRecording,
        task: SeparationTask,
        model: str,
        headers: Headers,
        answer: Callable[[AsyncGenerator[Merged]], Awaitable[Response]],
        silent_gaps: Sequence[str] = (),
    ) -> Response:
        """What `answer` makes of the stems of a recording. With `silent_gaps`, the names of all stems, chunks that fail may
        be silent (`SeparationGraph.run`). Raises `MotetError`: what `admit` and `answer` raise."""
        ticket = self.admit(model, headers, estimated_seconds(file.head, file.likely_size))
        try:
            upload = file.blocks(self.settings.recordings.block_bytes)
            assert self.separations is not None, "a model separates"
            return await answer(
                self.separations.run(upload, task, self.directory, ticket, model, silent_gaps=silent_gaps)
            )
        except BaseException:
            ticket.close()
            raise

    def owner(self, headers: Headers) -> str:
        """Whose uploaded voices a request may use: those of its API key, or everyone's in a service without keys."""
        return self._owner(headers) or EVERYONE

    def _owner(self, headers: Headers) -> str | None:
        """Whose quotas a request has; None in a service without keys."""
        return self.keys.owner(key_digest(headers)) if self.keys.needed else None

    def viewer(self, connection: HTTPConnection) -> Viewer:
        """Whose jobs and files a request may see."""
        return Viewer(self.client(connection) or THIS_MACHINE, self.keys.needed)

    def client(self, connection: HTTPConnection) -> str | None:
        """The client of a request: its API key, or in a service without keys its network. None for this machine."""
        if (owner := self._owner(connection.headers)) is not None:
            return owner
        address = connection.client.host if connection.client else ""
        if is_loopback(address):  # HAProxy runs on this machine
            address = connection.headers.get(CLIENT_HEADER, "")
        return None if not address or is_loopback(address) else client_network(address)

    @property
    def speech_models(self) -> SpeechModels:
        """The speech models of the service."""
        speech = self.settings.speech
        return SpeechModels(self.directory, speech.fallback_model, speech.aligning_model, self.settings.spillover)

    @property
    def planner(self) -> SpeechPlanner:
        """Plans speech requests. A job may have a longer text."""
        speech = self.settings.speech
        if JOB.get():
            speech = speech.model_copy(update={"max_input_characters": self.settings.jobs.max_input_characters})
        return SpeechPlanner(self.speech_models, self.voices, speech)


def service_of(connection: HTTPConnection) -> Service:
    """The service behind the application that answers this request or WebSocket."""
    return cast(Service, connection.app.state.service)
