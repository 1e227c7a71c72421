"""The models that were loaded into the running service, as one gateway replica knows them, and requests to change them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from cluster.models import Model
from deployments.catalogue.installed import RegistrySettings
from deployments.engines.registry import Task
from deployments.errors import fail, quoted
from serve_app.gateway.routing.directory import ModelDirectory, ModelEntry
from serve_app.gateway.routing.placement import PlacedModel
from serve_app.loading.fields import ModelToLoad, ensure_fetched
from serve_app.loading.lifecycle import ensure_apart
from serve_app.loading.records import GatewayAnswer, ModelLoad

Placed = Callable[[str, Model], tuple[ModelEntry, Sequence[PlacedModel]]]
"""A loaded model as requests use it, over handles of its deployments."""


class Loader(Protocol):
    """Changes the models of all gateways: see `LoaderClient`."""

    def loaded(self) -> Sequence[ModelLoad]:
        """The models that are loaded now."""

    async def load(self, name: str, model: Model) -> ModelLoad:
        """Begins to load a model. Raises `MotetError`."""

    async def unload(self, name: str) -> ModelLoad:
        """Begins to unload a model. Raises `MotetError`."""


class LoadedModels:
    """Follows the loader's list, and passes requests on to the loader. It belongs to one event loop.

    `tasks` are those for which the service has all that a model needs beside itself. `began` is called with each model and
    its settings when requests may use it, and `gone` with its name and entry when no request uses it any longer.
    """

    def __init__(
        self,
        directory: ModelDirectory,
        loader: Loader,
        placed: Placed,
        registry: RegistrySettings,
        tasks: Sequence[Task],
        began: Callable[[str, Model], None] = lambda name, model: None,
        gone: Callable[[str, ModelEntry], None] = lambda name, entry: None,
    ) -> None:
        self._directory = directory
        self._loader = loader
        self._placed = placed
        self.registry = registry
        self._tasks = tasks
        self._began = began
        self._gone = gone
        self._configured = {*directory.models, *directory.aliases}
        self._models: dict[str, ModelLoad] = {}

    @property
    def models(self) -> Mapping[str, ModelLoad]:
        """The loaded models by name, in every state."""
        return self._models

    def start(self) -> None:
        """Takes the list as it is when the gateway starts. Takes about a millisecond."""
        self.note(self._loader.loaded())

    def note(self, models: Sequence[ModelLoad]) -> GatewayAnswer:
        """Takes the whole list of the loader. Returns the open requests of each model."""
        taken = tuple(model.id for model in models if self._configured & set(model.names))
        before, self._models = self._models, {model.id: model for model in models if model.id not in taken}
        for name in [
            name for name in self._directory.added if name not in self._ready or self._is_another(name, before)
        ]:
            self._directory.withdraw(name)
        for name in [name for name in self._directory.added if name not in self._models]:
            if not self._directory.open_requests(name):
                self._remove(name)
        for model in self._models.values():
            if model.state == "ready" and model.id not in self._directory.offered:
                if model.id in self._directory.added:  # open requests use a former one, which may be another model
                    self._gone(model.id, self._directory.models[model.id])
                self._directory.add(model.id, *self._placed(model.id, model.model))
                self._began(model.id, model.model)
        loading = (model for model in self._models.values() if model.state == "loading")
        self._directory.expect([name for model in loading for name in model.names])
        return GatewayAnswer(open={model.id: self._directory.open_requests(model.id) for model in models}, taken=taken)

    def _remove(self, name: str) -> None:
        entry = self._directory.models[name]
        self._directory.remove(name)
        self._gone(name, entry)

    @property
    def _ready(self) -> set[str]:
        return {name for name, model in self._models.items() if model.state == "ready"}

    def _is_another(self, name: str, before: Mapping[str, ModelLoad]) -> bool:
        """Whether the model of a name was replaced while the loader could not tell this gateway."""
        return name in before and before[name].model != self._models[name].model

    def open_requests(self, name: str) -> int:
        """The number of open requests of this gateway replica that use a loaded model."""
        return self._directory.open_requests(name)

    async def load(self, wanted: ModelToLoad) -> ModelLoad:
        """Begins to load a model. Raises `MotetError`: conflict if a name is taken, unsupported for a task for which the
        service has no helpers, not_found for weights that are not here."""
        model = wanted.settings
        draft = ModelLoad(id=wanted.id, model=model, since=0.0)
        ensure_apart(draft, self._configured)
        if model.task not in self._tasks:
            cause = f"This service was started without what {model.task} needs beside a model."
            remedy = "Add the model to the configuration, and start the service anew: docs/models.md says why."
            raise fail("unsupported", cause, remedy, param="engine", code="task_not_served")
        await asyncio.to_thread(ensure_fetched, wanted.id, model)
        return self._with(await self._loader.load(wanted.id, model))

    async def unload(self, name: str) -> ModelLoad:
        """Begins to unload a model. Raises `MotetError`: conflict for a model of the configuration, not_found for an unknown
        one."""
        if name in self._configured:
            cause = f"The model {quoted(name)} is one of the configuration."
            remedy = "Remove it there, and start the service anew or run `motet deploy`."
            raise fail("conflict", cause, remedy, param="model", code="model_configured")
        return self._with(await self._loader.unload(name))

    def _with(self, model: ModelLoad) -> ModelLoad:
        """Takes a change at once, unless the loader has told more than that meanwhile."""
        known = self._models.get(model.id)
        if known is not None and known.since > model.since:
            return known
        self.note([*(other for other in self._models.values() if other.id != model.id), model])
        return model
