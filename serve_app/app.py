"""`build(AppArguments) -> Application`: the only place that binds the deployment graph."""

# No `from __future__ import annotations`: Ray Serve reads the annotation of `build` to validate its argument.

import hashlib
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application, Deployment
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from cluster import ray_private
from cluster.autoscaling import autoscaling_config
from cluster.models import Model, Placement
from cluster.spare_router import ROUTER
from deployments.replica.chunker import Chunker
from deployments.replica.merger import AudioHelper, Merger
from deployments.replica.quota_ledger import LedgerReplica
from deployments.replica.recognizer import Recognizer
from deployments.replica.separator import Separator
from deployments.replica.synthesizer import Synthesizer
from deployments.settings import HealthSettings
from serve_app.config import AppArguments, AppConfig
from serve_app.gateway.api import build_api
from serve_app.gateway.deployment import Gateway
from serve_app.loading.actor import LoadingParts
from serve_app.loading.lifecycle import LoadLimits
from serve_app.replica_settings import replica_settings

ROOT = Path(__file__).parents[1]
HEAD = "node:__internal_head__"
"""Ray's resource of the machine with which its cluster began."""
MIN_RESOURCE = 0.001
"""The smallest share of a resource. It places a replica on a machine that has the resource."""

EXCHANGES_OF_A_GATEWAY = 8
"""With the ledger of quotas. There is one at a time, beside those that were given up lately, and the gateways that end."""

DEPLOYMENT_OF_TASK: dict[str, type] = {"speech": Synthesizer, "transcription": Recognizer, "separation": Separator}


def build(config: AppArguments) -> Application:
    """The service of a file. Ray Serve calls it by the file's `import_path`."""
    return application_of(config)


def application_of(config: AppConfig) -> Application:
    """The whole service as one Ray Serve application."""
    models = {
        name: {placement.hardware.kind: _bind(name, model, placement, config) for placement in model.placements}
        for name, model in config.models.items()
    }
    helpers, merger = _helpers(config)
    gateway = serve.deployment(
        name="gateway",
        num_replicas=config.gateway_replicas,
        # Ray Serve lets requests beyond this number wait without limit, /livez included: `ConcurrencyLimit` refuses instead.
        max_ongoing_requests=config.edge.max_connections,
        graceful_shutdown_timeout_s=config.drain_s,
        max_surge_percent=100,
        ray_actor_options=_front(config),
        **_health(config.health_check),
    )(serve.ingress()(Gateway))
    loading = LoadingParts(
        partial(loaded_application, config), LoadLimits(config.start_timeout_s, config.drain_s), _front(config)
    )
    return versioned(gateway, *_apart_from_steps(config)).bind(
        config, models, helpers, merger, _ledger(config), build_api, loading
    )


class LoadedRoot:
    """The root of the application of a loaded model. Ray Serve needs one, opens an HTTP port in its replicas, and keeps them
    for 30 s when they end; it never has a replica."""

    def __init__(self, placements: list[Any]) -> None:
        self.placements = placements


def loaded_application(config: AppConfig, name: str, model: Model, others: Mapping[str, Model]) -> Application:
    """A model that is loaded into the running service beside `others`, as an application of its own. If all its placements
    may have no replica, the first one begins with one, so that the model is known to load."""
    beside = config.model_copy(update={"models": {**config.models, **others, name: model}})
    sleeps = all(placement.least_replicas == 0 for placement in model.placements)
    placements = [
        _bind(name, model, placement, beside, awake=sleeps and number == 0)
        for number, placement in enumerate(model.placements)
    ]
    none = AutoscalingConfig(min_replicas=0, initial_replicas=0, max_replicas=1)
    return serve.deployment(name="root", autoscaling_config=none)(LoadedRoot).bind(placements)


def _bind(name: str, model: Model, placement: Placement, config: AppConfig, *, awake: bool = False) -> Application:
    """One model on one hardware class, as the deployment `<model>@<class>`. An `awake` one begins with a replica, even if its
    load needs none."""
    settings = replica_settings(name, model, placement, config.models, config.tracing)
    speaks = model.task == "speech"
    deployment = serve.deployment(
        name=f"{name}@{placement.hardware.kind}",
        # Windows and chunks wait at the replica's gate, which takes those of new recordings first, and not in the router.
        max_ongoing_requests=max(placement.max_ongoing_requests, 0 if speaks else config.recordings.max_in_flight),
        max_queued_requests=placement.max_queued_requests,
        graceful_shutdown_timeout_s=config.drain_s,
        max_surge_percent=placement.surge_percent,
        ray_actor_options=placement.hardware.actor_options(),
        user_config=model.steps.model_dump(),
        **_health(placement.health_check),
        **_replicas(name, placement, config, awake=awake),
    )(DEPLOYMENT_OF_TASK[model.task])
    return versioned(deployment, settings.model_dump_json(exclude={"steps"})).bind(settings)


def _replicas(name: str, placement: Placement, config: AppConfig, *, awake: bool) -> dict[str, Any]:
    """The number of replicas, or the policy that decides it, and which of several take requests first."""
    router = _router(placement.spare) if placement.has_siblings else {}
    if placement.autoscaling is None:
        return {"num_replicas": placement.least_replicas + placement.spare, **router}
    seconds = config.speech.request_seconds_of_audio
    scaling = autoscaling_config(name, placement.autoscaling, seconds, placement.spare)
    if awake:
        scaling = scaling.model_copy(update={"initial_replicas": 1})
    return {"autoscaling_config": scaling, **router}


def _router(spare: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"request_router_class": ROUTER, "request_router_kwargs": {"spare": spare}}
    return {"request_router_config": RequestRouterConfig(**settings)}


def _health(check: HealthSettings) -> dict[str, Any]:
    return {"health_check_period_s": check.period_s, "health_check_timeout_s": check.timeout_s}


def _helpers(config: AppConfig) -> tuple[list[Application], Application | None]:
    """The audio helpers, and what merges separated chunks. A single helper merges too; several have a process each, and so
    has the merger. A service that only speaks needs none of them."""
    tasks = {model.task for model in config.models.values()}
    if not tasks & {"transcription", "separation"}:
        return [], None
    settings = config.recordings
    if settings.helpers == 1:
        helper = _helper(AudioHelper, "audio-helper", config).bind(settings)
        return [helper], helper
    helpers = [_helper(Chunker, f"audio-helper-{number}", config).bind(settings) for number in range(settings.helpers)]
    return helpers, _helper(Merger, "merger", config).bind() if "separation" in tasks else None


def _ledger(config: AppConfig) -> Application | None:
    """What shares the quotas of keys among several gateways. A single gateway counts them itself."""
    if config.gateway_replicas == 1 or not config.security.may_have_quotas:
        return None
    deployment = serve.deployment(
        name="quota-ledger",
        num_replicas=1,  # a second one would know nothing of what the first one lends, so it is not replaced by a surge
        max_ongoing_requests=config.gateway_replicas * EXCHANGES_OF_A_GATEWAY,
        ray_actor_options=_front(config),
        logging_config={"enable_access_log": False},  # a line for each of two calls a second from each gateway
        **_health(config.health_check),
    )(LedgerReplica)
    return versioned(deployment).bind()


def _helper(kind: type, name: str, config: AppConfig) -> Deployment:
    """A deployment for recordings that holds no model. Each session feeds, requests, keeps and ends one at a time, and what
    is in flight is fetched and joined. A gateway has one call for all live sessions, and one for each whose turn may be
    over."""
    settings = config.recordings
    live = config.gateway_replicas * (config.realtime.max_sessions + 1)
    deployment = serve.deployment(
        name=name,
        max_ongoing_requests=settings.max_sessions * 4 + settings.max_in_flight * 2 + live,
        graceful_shutdown_timeout_s=config.drain_s,
        max_surge_percent=100,
        ray_actor_options=_front(config),
        logging_config={"enable_access_log": False},  # a line for each of thirty calls a second while a client speaks
        **_health(config.health_check),
    )(kind)
    return versioned(deployment, settings.model_dump_json())


def versioned(deployment: Deployment, *content: str) -> Deployment:
    """The deployment with a version made of its content and the code, so that an update replaces only what changed.

    Settings that Ray Serve can change in running replicas are not part of the content.
    """
    digest = hashlib.sha256("\n".join((_code(), *content)).encode()).hexdigest()
    return ray_private.with_version(deployment, digest)


@cache
def _code() -> str:
    """A digest of Motet's own code."""
    digest = hashlib.sha256()
    for package in ("cluster", "deployments", "serve_app"):
        for file in sorted((ROOT / package).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _apart_from_steps(config: AppConfig) -> list[str]:
    """The configuration without the settings that running replicas take, and the gateway does not use."""
    models = {name: model.model_dump_json(exclude={"steps"}) for name, model in config.models.items()}
    return [
        config.model_dump_json(exclude={"models", "start_timeout_s"}),
        *(f"{name}: {text}" for name, text in models.items()),
    ]


def _front(config: AppConfig) -> dict[str, Any]:
    """Resources of replicas without a model. By default they run on the first machine, which stays while others come and go,
    and where requests enter. With `gateway_on: any`, a first machine without CPUs holds nothing that a stream needs, so
    streams survive its restart."""
    return (
        {"num_cpus": 0, "resources": {HEAD: MIN_RESOURCE}}
        if config.gateway_on == "head"
        else {"num_cpus": MIN_RESOURCE}
    )
