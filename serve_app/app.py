"""`build(AppConfig) -> Application`: the only place that binds the deployment graph."""

# No `from __future__ import annotations`: Ray Serve reads the annotation of `build` to validate its argument.

from typing import Any

from ray import serve
from ray.serve import Application, Deployment

from cluster.autoscaling import autoscaling_config
from deployments.pipeline import Chunker, Merger
from deployments.recognizer import Recognizer
from deployments.separator import Separator
from deployments.synthesizer import Synthesizer
from serve_app.config import AppConfig, Model, Placement
from serve_app.gateway import Gateway
from serve_app.replica_settings import replica_settings

HEAD = "node:__internal_head__"
"""Ray's resource of the machine with which its cluster began."""

SHIMS: dict[str, type] = {"speech": Synthesizer, "transcription": Recognizer, "separation": Separator}


def build(config: AppConfig) -> Application:
    """The whole service as one Ray Serve application."""
    models = {
        name: {placement.hardware.kind: _bind(name, model, placement, config) for placement in model.placements}
        for name, model in config.models.items()
    }
    separates = any(model.task == "separation" for model in config.models.values())
    chunkers = [
        _helper(Chunker, f"chunker-{number}", config).bind(config.separation)
        for number in range(config.separation.chunkers)
    ]
    graph = (chunkers, _helper(Merger, "merger", config).bind()) if separates else None
    gateway = serve.deployment(
        name="gateway",
        num_replicas=config.gateway_replicas,
        max_ongoing_requests=config.gateway_max_ongoing_requests,
        graceful_shutdown_timeout_s=config.drain_s,
        ray_actor_options=_front(config),
    )(serve.ingress()(Gateway))
    return gateway.bind(config, models, graph)


def _bind(name: str, model: Model, placement: Placement, config: AppConfig) -> Application:
    """One model on one hardware class, as the deployment `<model>@<class>`."""
    settings = replica_settings(name, model, placement)
    deployment = serve.deployment(
        name=f"{name}@{placement.hardware.kind}",
        max_ongoing_requests=placement.max_ongoing_requests,
        max_queued_requests=placement.max_queued_requests,
        graceful_shutdown_timeout_s=config.drain_s,
        ray_actor_options=placement.hardware.actor_options(),
        user_config=model.steps.model_dump(),
        **_replicas(name, placement, config),
    )(SHIMS[model.task])
    extra: list[Any] = [config.windows] if model.task == "transcription" else []
    return deployment.bind(settings, *extra)


def _replicas(name: str, placement: Placement, config: AppConfig) -> dict[str, Any]:
    """How many there are, or what decides it."""
    if placement.autoscaling is None:
        return {"num_replicas": placement.replicas}
    seconds = config.speech.request_seconds_of_audio
    return {"autoscaling_config": autoscaling_config(name, placement.autoscaling, seconds)}


def _helper(shim: type, name: str, config: AppConfig) -> Deployment:
    """A deployment of the separation graph that holds no model."""
    return serve.deployment(
        name=name,
        max_ongoing_requests=config.separation.max_sessions * (config.separation.chunks_in_flight + 2),
        graceful_shutdown_timeout_s=config.drain_s,
        ray_actor_options=_front(config),
    )(shim)


def _front(config: AppConfig) -> dict[str, Any]:
    """Where what holds no model runs. Machines come and go; the first one stays, and requests enter there."""
    return {"num_cpus": 0, "resources": {HEAD: 0.001}} if config.gateway_on == "head" else {"num_cpus": 0}
