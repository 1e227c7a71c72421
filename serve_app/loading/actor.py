"""The loader: one detached actor of a service. It begins with the first model that is loaded, and ends with the service."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from pydantic import ValidationError
from ray import serve
from ray.serve.schema import ApplicationStatus, ReplicaState  # type: ignore[attr-defined]

from cluster import ray_private
from cluster.applications import is_loaded_into, loaded_application
from cluster.models import Model
from deployments.errors import Failure, MotetError, fail
from serve_app import deploy_failures
from serve_app.loading.lifecycle import Bind, LoadLimits, LoadProgress, ModelLoads
from serve_app.loading.records import GatewayAnswer, ModelLoad

logger = logging.getLogger("ray.serve")

NAMESPACE = "motet"
GATEWAY = "gateway"
TELL_METHOD = "note_models"
"""Of the gateway: takes the list, and returns a `GatewayAnswer`."""
LOOK_S = 0.5
"""Between two looks while a model loads or unloads."""
SETTLED_LOOK_S = 5.0
"""Otherwise. A gateway that started while the list changed learns it so."""
GATEWAY_ANSWER_S = 2.0
LOADER_ANSWER_S = 45.0
"""Starting the loader takes some seconds of it."""


class KeyValueStore:
    """The list in the key-value store of Ray's GCS, which lives as long as the cluster."""

    def __init__(self, service: str) -> None:
        self._prefix = f"{NAMESPACE}/{service}/loaded/"

    def all(self) -> Sequence[ModelLoad]:
        """See `LoadStore`. Takes about a millisecond. The list outlives the version that wrote it: what this one cannot read
        is left out, so that it stops no gateway."""
        found = []
        for key, value in ray_private.stored_values(NAMESPACE, self._prefix).items():
            try:
                found.append(ModelLoad.model_validate_json(value))
            except (ValidationError, MotetError):
                logger.warning("%s cannot be used by this version of Motet", key, exc_info=True)
        return sorted(found, key=lambda model: model.since)

    def save(self, model: ModelLoad) -> None:
        """See `LoadStore`."""
        ray_private.store_value(NAMESPACE, self._prefix + model.id, model.model_dump_json().encode())

    def remove(self, name: str) -> None:
        """See `LoadStore`."""
        ray_private.remove_value(NAMESPACE, self._prefix + name)

    def clear(self) -> None:
        """Removes everything."""
        for key in ray_private.stored_values(NAMESPACE, self._prefix):
            ray_private.remove_value(NAMESPACE, key)


class ServeCluster:
    """Ray Serve, as the loader of a service uses it."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._gateways: Callable[..., list[GatewayAnswer]] | None = None

    def deploy(self, name: str, application: Any) -> None:
        """See `LoadCluster`."""
        target = serve.RunTarget(application, loaded_application(self._service, name), None)
        serve.run_many([target], wait_for_applications_running=False)

    def progress(self, name: str) -> LoadProgress:
        """See `LoadCluster`."""
        found = serve.status().applications.get(loaded_application(self._service, name))
        if found is None:
            return LoadProgress("gone")
        if found.status == ApplicationStatus.DEPLOY_FAILED:
            return LoadProgress("failed", deploy_failures.cause_of(found))
        if any(each.replica_states.get(ReplicaState.RUNNING) for each in found.deployments.values()):
            return LoadProgress("running")
        return LoadProgress("starting", "; ".join(deploy_failures.troubles_of(found)))

    def delete(self, name: str) -> None:
        """See `LoadCluster`."""
        application = loaded_application(self._service, name)
        found = serve.status().applications.get(application)
        if found is not None and found.status != ApplicationStatus.DELETING:
            serve.delete(application, _blocking=False)

    def tell_gateways(self, models: Sequence[ModelLoad]) -> Sequence[GatewayAnswer] | None:
        """See `LoadCluster`."""
        try:
            if self._gateways is None:
                self._gateways = ray_private.deployment_calls(self._service, GATEWAY)
            return self._gateways(TELL_METHOD, GATEWAY_ANSWER_S, models)
        except Exception:
            logger.debug("A gateway does not answer", exc_info=True)  # it is gone, frozen or being replaced
            return None


class ModelLoader:
    """The actor. Its calls run one after another, and beside them a thread that looks."""

    def __init__(self, service: str, limits: LoadLimits) -> None:
        self._loads = ModelLoads(KeyValueStore(service), ServeCluster(service), limits, time.time)
        self._lock = threading.Lock()
        self._changed = threading.Event()
        threading.Thread(target=self._look_for_ever, name="looks", daemon=True).start()

    def load(self, name: str, model: Model, bind: Bind, limits: LoadLimits) -> ModelLoad | Failure:
        """See `ModelLoads.load`. The limits are those of the service from now on: it may have been updated."""
        self._loads.limits = limits
        return self._done(lambda: self._loads.load(name, model, bind))

    def unload(self, name: str) -> ModelLoad | Failure:
        """See `ModelLoads.unload`. The gateways know of it, if they answer."""
        return self._done(lambda: self._loads.unload(name))

    def _done(self, change: Callable[[], ModelLoad]) -> ModelLoad | Failure:
        with self._lock:
            try:
                changed = change()
            except MotetError as error:
                return error.failure
            self._changed.set()
            with suppress(Exception):  # what was changed is changed, and the thread looks as well
                self._loads.look()
        return changed

    def _look_for_ever(self) -> None:
        while True:
            self._changed.wait(SETTLED_LOOK_S if self._loads.settled else LOOK_S)
            self._changed.clear()
            try:
                with self._lock:
                    self._loads.look()
            except Exception:
                logger.warning("The state of a loaded model is unknown", exc_info=True)  # the controller is restarted


@dataclass(frozen=True, slots=True)
class LoadingParts:
    """What a gateway needs to have models loaded: what makes its application, the limits, and the resources of the
    loader."""

    bind: Bind
    limits: LoadLimits
    actor_options: Mapping[str, Any] = field(default_factory=dict)


class LoaderClient:
    """The loader of a service, as gateways use it. It starts with the first model."""

    def __init__(self, service: str, parts: LoadingParts) -> None:
        self._service = service
        self._parts = parts

    def loaded(self) -> Sequence[ModelLoad]:
        """The models that are loaded now. Takes about a millisecond."""
        return KeyValueStore(self._service).all()

    async def load(self, name: str, model: Model) -> ModelLoad:
        """Begins to load a model. Raises `MotetError`."""
        return await self._ask("load", name, model, self._parts.bind, self._parts.limits)

    async def unload(self, name: str) -> ModelLoad:
        """Begins to unload a model. Raises `MotetError`."""
        return await self._ask("unload", name)

    async def _ask(self, method: str, *arguments: Any) -> ModelLoad:
        try:
            async with asyncio.timeout(LOADER_ANSWER_S):
                loader = await asyncio.to_thread(self._loader)
                answer = await getattr(loader, method).remote(*arguments)
        except ray.exceptions.RayTaskError as error:
            cause = "The process that loads models failed."
            raise fail("unavailable", cause, "Look at its log.", detail=str(error.cause)) from error
        except (TimeoutError, ray.exceptions.RayError) as error:
            cause = "The process that loads models does not answer."
            raise fail("unavailable", cause, "Look at GET /v1/admin/models, then try again.") from error
        if isinstance(answer, Failure):
            raise MotetError(answer)
        loaded: ModelLoad = answer
        return loaded

    def _loader(self) -> Any:
        kind: Any = ray.remote(ModelLoader)
        options = {
            "name": _actor_name(self._service),
            "namespace": NAMESPACE,
            "get_if_exists": True,
            "max_restarts": -1,
        }
        actor = kind.options(lifetime="detached", **options, **self._parts.actor_options)
        return actor.remote(self._service, self._parts.limits)


def remove_all(service: str) -> None:
    """Ends all that was loaded into a service of the connected cluster, and forgets it."""
    with suppress(ValueError):  # nothing was ever loaded
        ray.kill(ray.get_actor(_actor_name(service), NAMESPACE))
    for application in serve.status().applications:
        if is_loaded_into(service, application):
            serve.delete(application, _blocking=False)
    KeyValueStore(service).clear()


def _actor_name(service: str) -> str:
    return f"loader of {service}"
