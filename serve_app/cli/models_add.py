"""`motet models add` and `remove`: a model of the catalogue or of the hub, fetched, checked, tried and configured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.models import Model
from deployments.catalogue import entries
from deployments.catalogue.choice import Choice, choose
from deployments.catalogue.entries import ModelCatalogue
from deployments.catalogue.installed import InstalledModel, InstalledModels, RegistrySettings
from deployments.errors import fail
from deployments.hub import cache
from deployments.hub.download import fetch
from serve_app import config_edit
from serve_app.cli.doctor_hardware import hardware
from serve_app.cli.terminal import byte_progress, note

GB = 1e9
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Adding:
    """How a model is added: under which name, on which class, by which engine, and what is done with it then."""

    name: str | None = None
    hardware: str | None = None
    engine: str | None = None
    try_it: bool = True
    config: Path | None = None
    """The configuration that gets it; None for none."""
    quiet: bool = False


def catalogue_of(settings: RegistrySettings) -> ModelCatalogue:
    """The catalogue that a configuration names, or Motet's own."""
    return entries.load(Path(settings.catalogue).expanduser()) if settings.catalogue else entries.load()


def add(wanted: str, settings: RegistrySettings, taken: Sequence[str], how: Adding) -> InstalledModel:
    """Adds a model, whose name must not be one of those that are `taken`. Nothing is configured that did not work."""
    present = {finding.name for finding in hardware() if finding.state == "ok"}
    choice = choose(wanted, catalogue_of(settings), present, name=how.name, hardware=how.hardware, engine=how.engine)
    if how.config is not None and choice.name in taken:
        cause = f"The configuration has a model {choice.name!r} already."
        raise fail("conflict", cause, "Remove it first, or name this one with --as NAME.", param="name")
    say: Say = _silent if how.quiet else note
    say(_introduction(choice))
    with _interruptible(choice, how.quiet), byte_progress(choice.name, quiet=how.quiet) as progress:
        folder = fetch(choice.download, progress)
    say(f"{len(choice.files)} files, {choice.download.size / GB:.2f} GB, all digests are right: {folder}")
    installed = choice.installed(folder)
    store = InstalledModels(settings)
    store.save(installed)
    if how.try_it and installed.hardware not in present:
        say(f"This machine has no {installed.hardware}, so {installed.name} was not tried.")
    elif how.try_it:
        installed = _tried(installed, store, say)
    if how.config is not None:
        config_edit.add_model(how.config, installed.name, installed.configuration)
        say(f"{installed.name} is in {how.config}. Start the service anew, or run motet deploy.")
    return installed


def _silent(line: str) -> None:
    """Says nothing."""


def _introduction(choice: Choice) -> str:
    found = choice.found
    lines = [f"{found.name}@{found.commit}, licence: {found.licence or 'see its page'}, engine: {choice.engine}"]
    if not choice.verified:
        lines.append(
            "UNVERIFIED: no two independent manifests agree on its weights. Pinned is what the hub states for this commit."
        )
    return "\n".join(lines)


@contextmanager
def _interruptible(choice: Choice, quiet: bool) -> Iterator[None]:
    """Says what remains of a download that was interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        folder = cache.unfinished(choice.found.name, choice.found.commit)
        there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
        if not quiet:
            note(f"Stopped. {there / GB:.2f} GB are here; the same command continues there.")
        raise


def _tried(installed: InstalledModel, store: InstalledModels, say: Say) -> InstalledModel:
    """The model with the figures of its trial. Raises `MotetError` if it does not work: it stays on the disk, and is not
    configured."""
    from serve_app.cli.local import reason_of
    from serve_app.cli.models_trial import trial_of

    try:
        outcome = trial_of(installed.name, Model.model_validate(installed.configuration))
    except Exception as error:
        cause = f"{installed.name} does not work here, and was not configured: {reason_of(error)}"
        remedy = f"motet models remove {installed.name} frees the disk; --no-try configures it all the same."
        raise fail("unavailable", cause, remedy, code="trial_failed") from error
    trial = outcome.trial
    memory = f", {trial.memory_bytes / GB:.2f} GB of memory" if trial.memory_bytes else ""
    say(f"{outcome.about}; loaded in {trial.load_seconds:.1f} s, {trial.times_real_time:.1f} times real time{memory}")
    tried = installed.model_copy(update={"trial": trial})
    store.save(tried)
    return tried


def remove(name: str, settings: RegistrySettings, config: Path | None, *, keep_weights: bool, quiet: bool) -> None:
    """Removes a model from the configuration, its note, and its weights unless another model has them.

    Raises `MotetError` (not_found) if it was neither added nor configured.
    """
    store = InstalledModels(settings)
    installed = store.find(name)
    configured = config is not None and config.is_file() and config_edit.remove_model(config, name)
    if installed is None and not configured:
        raise fail("not_found", f"No model {name!r} was added.", "motet models lists them.", param="name")
    done = [f"{name} is no longer in {config}"] if configured else []
    if installed is not None:
        store.remove(name)
        done.append(_freed(installed, store) if not keep_weights else "its weights are kept")
    if not quiet:
        note(f"{'; '.join(done)}.")


def _freed(installed: InstalledModel, store: InstalledModels) -> str:
    snapshot = installed.repository, installed.revision
    if any((other.repository, other.revision) == snapshot for other in store.all().values()):
        return "its weights are kept, because another model has them"
    return f"{cache.remove(*snapshot) / GB:.2f} GB are free"
