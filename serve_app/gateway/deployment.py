"""The ingress deployment: an HTTP application over the handles of every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from serve_app.config import AppConfig
from serve_app.gateway.api import Service, build_api
from serve_app.gateway.metrics import RequestMetrics
from serve_app.gateway.routing.admission import Admission, SessionPlaces
from serve_app.gateway.routing.placement import ModelDirectory
from serve_app.gateway.separation import SeparationGraph
from serve_app.gateway.speech.piece_cache import PieceCache
from serve_app.gateway.voice_store import VoiceStore


class Gateway:
    """Holds handles only; it never loads a model."""

    def __init__(
        self,
        config: AppConfig,
        models: Mapping[str, Mapping[str, DeploymentHandle[Any]]],
        graph: tuple[Sequence[DeploymentHandle[Any]], DeploymentHandle[Any]] | None,
    ) -> None:
        self._service = Service(
            config,
            ModelDirectory(config, models),
            SeparationGraph(*graph, config.separation) if graph else None,
            Admission(config.speech.admission),
            PieceCache(config.speech.piece_cache_bytes),
            RequestMetrics(config.speech.first_sound_alarm_ms),
            VoiceStore(config.voices),
            SessionPlaces(config.speech.arrival.max_sessions),
        )

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Ray Serve once the replica is up."""
        return build_api(self._service)
