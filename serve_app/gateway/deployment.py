"""The ingress deployment: the service over the handles of every model. The only file of the gateway that reads the
configuration as a whole."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import Headers
from starlette.types import ASGIApp

from cluster import address as cluster_address
from cluster import ray_private
from cluster.applications import loaded_application
from cluster.models import Model, Placement, weight_uses
from deployments.audio.isolated_decode import shared_decoder_processes
from deployments.catalogue.installed import WeightUse
from deployments.engines.protocols import RecognitionOptions
from deployments.engines.registry import Task
from deployments.replica.error_log import ignore_unwritten_lines
from deployments.replica.metric import keep_gauges
from deployments.replica.quota_ledger import LeaseAnswer, LeaseReport
from deployments.text.normalization.normalizer import load_libraries
from deployments.tracing.start import tracer_of
from serve_app.config import AppConfig
from serve_app.gateway import voice_deletion
from serve_app.gateway.analysis import RecordingAnalysis
from serve_app.gateway.audit import audit
from serve_app.gateway.enhancement_load import EnhancementLoad, LiveEnhancements
from serve_app.gateway.key_ring import KeyRing
from serve_app.gateway.live.chat import ChatEndpoint
from serve_app.gateway.live.conversation import Conversation, Emit
from serve_app.gateway.live.pace import LivePace
from serve_app.gateway.live.recognition import LiveRecognition
from serve_app.gateway.live.response_protocol import Responds
from serve_app.gateway.live.responses import Responses
from serve_app.gateway.live.session import Session, SessionParts
from serve_app.gateway.live.sessions import LiveSessions
from serve_app.gateway.live.settings import RealtimeSettings
from serve_app.gateway.live.spoken_answer import SpokenAnswer
from serve_app.gateway.live.spoken_turn import TurnRecognition
from serve_app.gateway.live.turn_detection import TurnDetection
from serve_app.gateway.live.voice_activity_calls import VoiceActivityCalls
from serve_app.gateway.loaded_models import LoadedModels
from serve_app.gateway.metrics import QueueMetrics, RequestMetrics
from serve_app.gateway.middleware.request_log import replace_access_log
from serve_app.gateway.model_additions import ModelAdditions
from serve_app.gateway.quota_leases import QuotaLeases
from serve_app.gateway.recording import Recordings
from serve_app.gateway.routing.admission import Admission
from serve_app.gateway.routing.directory import ModelDirectory, ModelEntry
from serve_app.gateway.routing.open_limits import EarlyAnswers, SessionLimit
from serve_app.gateway.routing.placement import PlacedModel
from serve_app.gateway.routing.silent_replicas import SilentReplicas
from serve_app.gateway.separation import SeparationGraph
from serve_app.gateway.service import Service, ServiceSettings
from serve_app.gateway.settings import EnhancementSettings
from serve_app.gateway.speech.piece_cache import PieceCache
from serve_app.gateway.transcription import TranscriptionGraph
from serve_app.gateway.voice_store import VoiceStore
from serve_app.loading.actor import LoaderClient, LoadingParts
from serve_app.loading.records import GatewayAnswer, ModelLoad

Handles = Mapping[str, Mapping[str, DeploymentHandle[Any]]]
"""By model and hardware class."""


class Gateway:
    """Holds handles only; it never loads a model."""

    def __init__(
        self,
        config: AppConfig,
        models: Handles,
        helpers: Sequence[DeploymentHandle[Any]],
        merger: DeploymentHandle[Any] | None,
        ledger: DeploymentHandle[Any] | None,
        build_api: Callable[[Service], ASGIApp],
        loading: LoadingParts,
    ) -> None:
        ignore_unwritten_lines()
        replace_access_log()
        load_libraries()
        self._build_api = build_api
        self._has_others = config.gateway_replicas > 1
        self._forgetting: asyncio.Task[None] | None = None
        context = serve.get_replica_context()
        name = context.replica_id.unique_id
        recordings = Recordings(helpers, config.recordings)
        directory = directory_of(config, models)
        queues = QueueMetrics(_placements(models))
        admission = Admission(config.speech.admission.among(config.gateway_replicas), changed=queues.changed)
        metrics = RequestMetrics(config.speech.first_sound_alarm_ms, {n: m.task for n, m in config.models.items()})
        loaded = LoadedModels(
            directory,
            LoaderClient(context.app_name, loading),
            lambda name, model: loaded_entry(name, model, config, _own_handles(context.app_name, name, model)),
            config.registry,
            tasks_beside(helpers, merger),
            began=lambda name, model: _begin_metrics(name, model, metrics, queues),
            gone=partial(forget_queues, admission),
        )
        self._service = Service(
            settings_of(config),
            directory,
            TranscriptionGraph(recordings, config.windows) if helpers else None,
            SeparationGraph(recordings, merger, config.separation) if merger else None,
            RecordingAnalysis(recordings, config.windows) if helpers else None,
            admission,
            PieceCache(config.speech.piece_cache_bytes),
            metrics,
            VoiceStore(config.voices, open_decoder=shared_decoder_processes(config.recordings.decoder).open),
            SessionLimit(config.speech.arrival.max_sessions, config.speech.arrival.max_sessions_per_client),
            EarlyAnswers(config.recordings.max_sessions * len(helpers) // 2),
            live_sessions(config.realtime, directory, helpers, config.gateway_replicas),
            live_enhancements(config.enhancement, config.gateway_replicas),
            KeyRing(config.security, shared=quota_leases(ledger, name, config.gateway_replicas) if ledger else None),
            config.registry,
            loaded,
            ModelAdditions(config.registry, partial(weights_in_use, config, loaded)),
            tracer=tracer_of(config.tracing, f"gateway/{name}"),
            identity=cluster_address.service_identity(context.app_name),
        )

        loaded.start()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Ray Serve once the replica is up."""
        return self._build_api(self._service)

    async def check_health(self) -> None:
        """Called by Ray Serve every few seconds. A gateway whose event loop answers is healthy."""
        keep_gauges()
        if self._has_others and (self._forgetting is None or self._forgetting.done()):
            # Not awaited: a file system that stands still must not end gateways.
            forgetting = voice_deletion.forget_deleted_elsewhere(self._service.voices, self._service.cache)
            self._forgetting = asyncio.create_task(forgetting)

    async def note_models(self, models: Sequence[ModelLoad]) -> GatewayAnswer:
        """Called by the loader, with the models that are loaded now."""
        return self._service.loaded.note(models)

    async def drain(self) -> int:
        """Refuses new requests from now on. Returns the number of open ones. Safe to call again."""
        if not self._service.drain.begun:
            audit("drain_begun")
        return self._service.drain.begin()


def _placements(models: Handles) -> list[str]:
    """Placements as queues name them."""
    return [f"{name}@{kind}" for name, kinds in models.items() for kind in kinds]


def quota_leases(ledger: DeploymentHandle[Any], gateway: str, gateways: int) -> QuotaLeases:
    """The quotas of keys, which one of several gateways shares through the ledger."""

    async def exchange(report: LeaseReport) -> LeaseAnswer:
        answer: LeaseAnswer = await ledger.exchange.remote(report)
        return answer

    return QuotaLeases(exchange, gateway, gateways)


def tasks_beside(helpers: Sequence[object], merger: object) -> list[Task]:
    """The tasks for which a service has all that a model needs beside itself."""
    needs: dict[Task, bool] = {"speech": True, "transcription": bool(helpers), "separation": bool(merger)}
    return [task for task, there in needs.items() if there]


def loaded_entry(
    name: str, model: Model, config: AppConfig, handles: Mapping[str, DeploymentHandle[Any]]
) -> tuple[ModelEntry, list[PlacedModel]]:
    """A model that was loaded into the running service, as its requests use it."""
    return _entry(model), _placed(name, model, config, handles)


def _own_handles(application: str, name: str, model: Model) -> Mapping[str, DeploymentHandle[Any]]:
    """The handles of a model that was loaded into this service, by hardware class."""
    kinds = {placement.hardware.kind: f"{name}@{placement.hardware.kind}" for placement in model.placements}
    return {
        kind: ray_private.handle_of(loaded_application(application, name), deployment)
        for kind, deployment in kinds.items()
    }


def weights_in_use(config: AppConfig, loaded: LoadedModels) -> list[WeightUse]:
    """The weights of the configured models, and of those that were loaded."""
    return weight_uses([*config.models.values(), *(each.model for each in loaded.models.values())])


def _begin_metrics(name: str, model: Model, requests: RequestMetrics, queues: QueueMetrics) -> None:
    requests.start(name, model.task)
    for placement in model.placements:
        queues.changed(f"{name}@{placement.hardware.kind}", 0, 0.0)


def forget_queues(admission: Admission, name: str, entry: ModelEntry) -> None:
    """Forgets the queues of a model that was unloaded."""
    for kind in entry.kinds:
        admission.forget_placement(f"{name}@{kind}")


def live_sessions(
    settings: RealtimeSettings, directory: ModelDirectory, helpers: Sequence[DeploymentHandle[Any]], gateways: int
) -> LiveSessions:
    """The live sessions of one of several gateways over the models and the audio helpers."""
    voices, pace = VoiceActivityCalls(helpers), LivePace(settings, gateways=gateways)
    key = os.environ.get(settings.chat.api_key_env) if settings.chat and settings.chat.api_key_env else None
    chat = ChatEndpoint(settings.chat, key) if settings.chat else None

    def recognize(model: str, options: RecognitionOptions, delay_s: float) -> TurnRecognition:
        return LiveRecognition(directory, model, options, settings, pace, delay_s)

    def respond(service: Service, conversation: Conversation, emit: Emit, headers: Headers) -> Responds:
        begin_voice = partial(SpokenAnswer.begin, service, headers, time.monotonic)
        return Responses(settings, chat, conversation, emit, begin_voice)

    parts = SessionParts(pace.admit, recognize, partial(TurnDetection, voices), respond)
    limit = SessionLimit(settings.max_sessions, settings.max_sessions_per_client, "live")
    return LiveSessions(settings, limit, partial(Session, parts))


def live_enhancements(settings: EnhancementSettings, gateways: int = 1) -> LiveEnhancements:
    """The sessions of live enhancement of one of several gateways."""
    limit = SessionLimit(settings.max_sessions, settings.max_sessions_per_client, "enhancement")
    return LiveEnhancements(settings, limit, EnhancementLoad(gateways=gateways))


def settings_of(config: AppConfig) -> ServiceSettings:
    """The settings that requests depend on."""
    return ServiceSettings(
        config.speech,
        config.recordings,
        config.windows,
        config.subtitles,
        config.separation,
        config.revoicing,
        config.spillover,
        config.limits,
        config.security,
        config.jobs,
        config.gateway_max_ongoing_requests,
        config.strict,
    )


def directory_of(config: AppConfig, handles: Handles) -> ModelDirectory:
    """The directory of the configured models. Only placements that have a handle are used."""
    entries = {name: _entry(model) for name, model in config.models.items()}
    placed = {name: _placed(name, config.models[name], config, kinds) for name, kinds in handles.items()}
    return ModelDirectory(entries, placed)


def _entry(model: Model) -> ModelEntry:
    kinds = [placement.hardware.kind for placement in model.placements]
    replicas = sum(placement.most_replicas for placement in model.placements)
    batch = model.steps.max_batch_size
    weights = repr((model.engine, model.source, model.sha256, model.beside, model.options))
    grows = any(placement.autoscaling for placement in model.placements)
    return ModelEntry(
        model.task, model.aliases, model.voice_aliases, model.max_wait_s, kinds, replicas, batch, weights, grows
    )


def _placed(
    name: str, model: Model, config: AppConfig, handles: Mapping[str, DeploymentHandle[Any]]
) -> list[PlacedModel]:
    configured: dict[str, Placement] = {each.hardware.kind: each for each in model.placements}
    placed = []
    for kind, handle in handles.items():
        placement = configured[kind]
        scaling = placement.autoscaling
        elastic, cost = (scaling.min_replicas == 0, scaling.cost) if scaling else (False, 0.0)
        silent = SilentReplicas(handle, config.spillover.life_sign_s).found if placement.has_siblings else None
        how, health = config.spillover, placement.health_check
        placed.append(PlacedModel(name, kind, handle, how, health, elastic=elastic, silent=silent, cost=cost))
    return placed
