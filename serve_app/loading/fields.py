"""The body of POST /v1/models: an entry of `models` in a configuration, with its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, model_validator

from cluster.models import Model
from deployments.catalogue.entries import EntryName
from deployments.catalogue.installed import InstalledModel, InstalledModels, RegistrySettings, readable
from deployments.engines import weight_sources
from deployments.errors import MotetError, fail
from deployments.hub.files import is_inside


def _without_engine(schema: dict[str, Any]) -> None:
    schema["required"].remove("engine")  # the catalogue may name it


class ModelToLoad(Model):
    """A model to load: the settings of an entry of `models` in the configuration, or a model that was added."""

    model_config = ConfigDict(json_schema_extra=_without_engine)

    id: EntryName
    """Its name."""
    catalogue: EntryName | None = None
    """A model that `motet models add` fetched. It gives the settings that are not here."""

    @model_validator(mode="after")
    def _names_no_file(self) -> ModelToLoad:
        """Clients must not choose which files the service opens."""
        for placed in map(self.on, self.placements):
            source = weight_sources.parse(placed.source) if placed.source else None
            if source is not None and source.kind == "path":
                raise ValueError("a source path:... is for the configuration; send wheel:... or hf:...")
            if bad := [name for name in placed.sha256 if not is_inside(name)]:
                raise ValueError(f"sha256: {bad[0][:64]!r} is not a file of the model's repository")
        return self

    @property
    def settings(self) -> Model:
        """The entry without its name."""
        return Model.model_validate(self.model_dump(exclude={"id", "catalogue"}))


def filled(fields: Mapping[str, Any], registry: RegistrySettings) -> dict[str, Any]:
    """The fields of a request, and those of the fetched model that it names. Reads files.

    Raises `MotetError`: not_found for a model that is not in the catalogue, or not on this machine; unavailable if its note
    or the catalogue cannot be read.
    """
    name = fields.get("catalogue")
    if not isinstance(name, str):
        return dict(fields)
    added = InstalledModels(registry)
    with readable():
        note, catalogue = added.find(name) or added.of_entry(name), registry.model_catalogue
    if note is None:
        catalogue.find(name)
    if note is None or not note.is_here:
        raise _not_here(name, _command(note, name))
    return {**note.configuration, **fields}


def ensure_fetched(name: str, model: Model) -> None:
    """Raises `MotetError` (not_found) if weights of the hub are not on this machine: a request does not fetch them."""
    for placed in map(model.on, model.placements):
        source = weight_sources.parse(placed.source) if placed.source else None
        if source is None or source.kind != "hf":
            continue
        if not placed.sha256:
            remedy = f"Send the sha256 of each weight file, or run `motet models add hf:{source.name}`."
            raise fail("invalid", "A model of the hub needs the SHA-256 of its weight files.", remedy, param="sha256")
        if not weight_sources.is_downloaded(source, placed.sha256, placed.beside):
            raise _not_here(name, f"hf:{source.name}")


def _command(note: InstalledModel | None, name: str) -> str:
    return f"hf:{note.repository}" if note is not None and note.entry is None else name


def _not_here(name: str, what: str) -> MotetError:
    cause = f"The weights of {name!r} are not on the machine of this service."
    remedy = f"Run `motet models add {what} --no-config` there; then send the request again."
    return fail("not_found", cause, remedy, code="weights_missing")
