"""`motet models add` and `remove`: a model of the catalogue or of the hub, fetched, checked, tried and configured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
from deployments.hub.download import fetch_locked
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
    store = InstalledModels(settings)
    with cache.locked(choice.found.name):  # until the note says that the files are used
        with _interruptible(choice, how.quiet), byte_progress(choice.name, quiet=how.quiet) as progress:
            folder = fetch_locked(choice.download, progress)
        installed = choice.installed(folder)
        store.save(installed)
    say(f"{len(choice.files)} files, {choice.download.size / GB:.2f} GB, all digests are right: {folder}")
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
        there = cache.collected_bytes(choice.found.name, choice.found.commit, choice.download.paths)
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


def remove(
    name: str,
    settings: RegistrySettings,
    configured: Mapping[str, Model],
    config: Path | None,
    *,
    keep_weights: bool,
    quiet: bool,
) -> None:
    """Removes a model from the configuration, its note, and its weights, except those that another added or `configured`
    model has.

    Raises `MotetError` (not_found) if it was neither added nor configured.
    """
    store = InstalledModels(settings)
    installed = store.find(name)
    left = config is not None and config.is_file() and config_edit.remove_model(config, name)
    if installed is None and not left:
        raise fail("not_found", f"No model {name!r} was added.", "motet models lists them.", param="name")
    done = [f"{name} is no longer in {config}"] if left else []
    if installed is not None:
        with cache.locked(installed.repository):
            store.remove(name)
            others = [model for other, model in configured.items() if other != name]
            done.append(_freed(installed, _weights_of_others(installed, store, others), keep_weights=keep_weights))
    if not quiet:
        note(f"{'; '.join(done)}.")


def _freed(installed: InstalledModel, others: Collection[Collection[str]], *, keep_weights: bool) -> str:
    """Removes the weights that no other model of the commit has; without such models the whole snapshot."""
    if keep_weights:
        return "its weights are kept"
    own = set(installed.weights).difference(*others)
    if others and not own:
        return "its weights are kept, because another model has them"
    freed = cache.remove(installed.repository, installed.revision, own if others else None)
    return f"{freed / GB:.2f} GB are free"


def _weights_of_others(
    installed: InstalledModel, store: InstalledModels, configured: Iterable[Model]
) -> list[Collection[str]]:
    """The weight files of each other model with the same commit."""
    commit = installed.repository, installed.revision
    added = [other.weights for other in store.all().values() if (other.repository, other.revision) == commit]
    source = installed.configuration["source"]
    placed = (model.on(placement) for model in configured for placement in model.placements)
    return [*added, *(model.sha256 for model in placed if model.source == source)]
