"""What is known of a model that was loaded into the running service: plain data, which the loader keeps and gateways get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from cluster.models import Model
from deployments.catalogue.entries import EntryName
from deployments.settings import StrictModel

LoadState = Literal["loading", "ready", "failed", "unloading"]


class ModelLoad(StrictModel):
    """A model that was loaded while the service runs."""

    id: EntryName
    """Its name."""
    model: Model
    """Its settings, as a configuration has them."""
    state: LoadState = "loading"
    """A `failed` one is not in memory. An `unloading` one gets no new requests."""
    since: float
    """When it got this state, in Unix seconds."""
    cause: str = ""
    """Why it failed, and what to do."""

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and its aliases."""
        return (self.id, *self.model.aliases)

    def become(self, state: LoadState, at: float, cause: str = "") -> ModelLoad:
        """The same model in another state."""
        return self.model_copy(update={"state": state, "since": at, "cause": cause})


class GatewayAnswer(StrictModel):
    """What a gateway replica says when it is told which models are loaded."""

    open: Mapping[str, int]
    """Its open requests of each model."""
    taken: tuple[str, ...] = ()
    """Models of which a name or an alias is one of the configuration by now, so that they cannot be used."""
