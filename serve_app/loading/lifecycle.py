"""Models that are loaded into the running service, and unloaded again. No Ray here.

Design. A loaded model is an application of Ray Serve of its own, without a route. Measured with Ray 2.60 on two cores: it is
deployed in 0.2 s and ready in 2.7 s, and every other replica stays; the same model as one more deployment of the service's
application replaces the gateways, because the models are a part of their arguments. Replicas of an application's root get an
HTTP port, and take at least 30 s to end; so the placements are below a root that never has a replica.

One loader, a small detached actor that begins with the first request, is the only one that changes the list (`actor.py`). The
list is in the key-value store of Ray's GCS, so it outlives gateways and the loader. A gateway reads it when it starts; after
that the loader tells all gateways, and they answer how many open requests each model has. A model that is unloaded is first
refused by every gateway, and its application is deleted when no gateway has an open request of it, or after `drain_s`.
The list ends with the service: `motet models add` is what writes a configuration.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from cluster.models import Model
from deployments.errors import fail, quoted
from serve_app.loading.records import GatewayAnswer, ModelLoad

logger = logging.getLogger("ray.serve")

Bind = Callable[[str, Model, Mapping[str, Model]], Any]
"""The application of a model, by its name and beside the others that are loaded."""
Progress = Literal["starting", "running", "failed", "gone"]


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far the application of a model is, and why not further."""

    state: Progress
    cause: str = ""


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """How long a model may take to load, and its open requests to end, in seconds."""

    start_s: float
    drain_s: float


class LoadStore(Protocol):
    """Keeps the list, beyond the end of this process."""

    def all(self) -> Sequence[ModelLoad]:
        """Every model in it, the oldest first."""

    def save(self, model: ModelLoad) -> None:
        """Adds or replaces one."""

    def remove(self, name: str) -> None:
        """Removes one."""


class LoadCluster(Protocol):
    """Runs applications, and knows the gateways."""

    def deploy(self, name: str, application: Any) -> None:
        """Starts the application of a model, and does not wait for it."""

    def progress(self, name: str) -> LoadProgress:
        """How far it is: `running` when a placement has a replica and none has failed."""

    def delete(self, name: str) -> None:
        """Ends it, and does not wait for it. Safe to call again."""

    def tell_gateways(self, models: Sequence[ModelLoad]) -> Sequence[GatewayAnswer] | None:
        """The answer of each gateway replica; None if not all of them answer."""


class ModelLoads:
    """The loaded models and their states. It belongs to one thread at a time. `clock` gives Unix seconds."""

    def __init__(self, store: LoadStore, cluster: LoadCluster, limits: LoadLimits, clock: Callable[[], float]) -> None:
        self._store = store
        self._cluster = cluster
        self.limits = limits
        self._clock = clock
        self._models = {model.id: model for model in store.all()}
        self._deleted: set[str] = set()

    @property
    def models(self) -> tuple[ModelLoad, ...]:
        """All of them, the oldest first."""
        return tuple(self._models.values())

    @property
    def settled(self) -> bool:
        """Whether no state changes by itself."""
        return all(model.state in ("ready", "failed") for model in self._models.values())

    def load(self, name: str, model: Model, bind: Bind) -> ModelLoad:
        """Begins to load a model. One that failed may be loaded again. Raises `MotetError` (conflict) if a name is taken, and
        what `bind` raises."""
        wanted = ModelLoad(id=name, model=model, since=self._clock())
        before = self._models.get(name)
        if before is not None and before.state == "failed" and self._cluster.progress(before.id).state != "gone":
            raise fail("conflict", f"The failed model {name!r} is just ending.", "Try again.", code="model_ending")
        self._ensure_free(wanted)
        application = bind(name, model, self._staying(besides=name))
        self._put(wanted)
        try:
            self._cluster.deploy(name, application)
        except Exception as error:
            return self._failed(wanted, f"{type(error).__name__}: {error}")
        return wanted

    def unload(self, name: str) -> ModelLoad:
        """Begins to unload a model. Raises `MotetError` (not_found)."""
        if name not in self._models:
            raise fail("not_found", f"No model {quoted(name)} was loaded.", param="model", code="model_not_found")
        model = self._models[name]
        return model if model.state == "unloading" else self._put(model.become("unloading", self._clock()))

    def look(self) -> None:
        """Notices what has changed, and tells the gateways."""
        for model in self.models:
            if model.state == "loading":
                self._look_at_loading(model)
        answers = self._cluster.tell_gateways(self.models)
        for name in dict.fromkeys(name for answer in answers or () for name in answer.taken):
            self.unload(name)
        before = self.models
        for model in before:
            if model.state == "unloading":
                self._look_at_unloading(model, answers)
        if len(self.models) < len(before):
            self._cluster.tell_gateways(self.models)

    def _look_at_loading(self, model: ModelLoad) -> None:
        now = self._cluster.progress(model.id)
        if now.state == "running":
            self._put(model.become("ready", self._clock()))
        elif now.state == "failed":
            self._failed(model, now.cause)
        elif now.state == "gone":
            self._failed(model, "Loading was interrupted. Load it again.")
        elif self._clock() - model.since > self.limits.start_s:
            limit = f"It was not ready after {self.limits.start_s:g} s (start_timeout_s)."
            self._failed(model, " ".join(filter(None, (limit, now.cause or "`motet doctor --cluster` says why."))))

    def _look_at_unloading(self, model: ModelLoad, answers: Sequence[GatewayAnswer] | None) -> None:
        if model.id in self._deleted:
            if self._cluster.progress(model.id).state == "gone":
                self._drop(model)
            return
        overdue = self._clock() - model.since > self.limits.drain_s
        if overdue or (answers and not _open(model.id, answers)):
            self._cluster.delete(model.id)
            self._deleted.add(model.id)

    def _failed(self, model: ModelLoad, cause: str) -> ModelLoad:
        logger.warning("The model %s could not be loaded: %s", model.id, cause)
        self._cluster.delete(model.id)
        return self._put(model.become("failed", self._clock(), cause))

    def _put(self, model: ModelLoad) -> ModelLoad:
        self._store.save(model)
        self._models[model.id] = model
        logger.info("The model %s is %s.", model.id, model.state)
        return model

    def _drop(self, model: ModelLoad) -> None:
        self._store.remove(model.id)
        self._deleted.discard(model.id)
        del self._models[model.id]
        logger.info("The model %s is unloaded.", model.id)

    def _staying(self, besides: str) -> dict[str, Model]:
        """The other models, without those that are leaving or failed."""
        others = [model for model in self._models.values() if model.id != besides]
        return {model.id: model.model for model in others if model.state in ("loading", "ready")}

    def _ensure_free(self, wanted: ModelLoad) -> None:
        for other in self._models.values():
            if other.id != wanted.id or other.state != "failed":
                ensure_apart(wanted, other.names)


def ensure_apart(wanted: ModelLoad, taken: Iterable[str]) -> None:
    """Raises `MotetError` (conflict) if the name or an alias of a model is among those that are taken."""
    known = set(taken)
    if wanted.id in known:
        cause = f"There is a model or an alias {wanted.id!r} already."
        raise fail("conflict", cause, "Choose another id, or unload that model first.", param="id", code="model_exists")
    if both := sorted(known & set(wanted.names)):
        cause = f"The alias {quoted(both[0])} is the name of another model."
        raise fail("conflict", cause, "Leave it out of aliases.", param="aliases", code="model_exists")


def _open(name: str, answers: Sequence[GatewayAnswer]) -> int:
    return sum(answer.open.get(name, 0) for answer in answers)
