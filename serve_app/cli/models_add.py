"""`motet models add` and `remove`: a model of the catalogue or of the hub, fetched, checked, tried and configured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.models import Model, weight_uses
from deployments.catalogue.adding import GB, fetch_and_note, remove_installed
from deployments.catalogue.choice import Choice, choose
from deployments.catalogue.installed import InstalledModel, InstalledModels, RegistrySettings, Trial
from deployments.errors import fail
from deployments.hub import cache
from serve_app import config_edit
from serve_app.cli.doctor_hardware import hardware
from serve_app.cli.terminal import byte_progress, note

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


def add(wanted: str, settings: RegistrySettings, taken: Sequence[str], how: Adding) -> InstalledModel:
    """Adds a model, whose name must not be one of those that are `taken`. Nothing is configured that did not work."""
    present = present_hardware()
    choice = choose(wanted, settings.model_catalogue, present, name=how.name, hardware=how.hardware, engine=how.engine)
    if how.config is not None and choice.name in taken:
        cause = f"The configuration has a model {choice.name!r} already."
        raise fail("conflict", cause, "Remove it first, or name this one with --as NAME.", param="name")
    say: Say = _silent if how.quiet else note
    say(_introduction(choice))
    store = InstalledModels(settings)
    with _interruptible(choice, how.quiet), byte_progress(choice.name, quiet=how.quiet) as progress:
        installed = fetch_and_note(choice, store, progress)
    folder = cache.snapshot(installed.repository, installed.revision)
    count, size = sum(len(each.files) for each in choice.downloads), installed.size / GB
    say(f"{count} files, {size:.2f} GB, all digests are right: {folder}")
    if how.try_it and installed.hardware not in present:
        say(f"This machine has no {installed.hardware}, so {installed.name} was not tried.")
    elif how.try_it:
        installed = _tried(installed, store, say)
    if how.config is not None:
        config_edit.add_model(how.config, installed.name, installed.configuration)
        say(f"{installed.name} is in {how.config}. Start the service anew, or run motet deploy.")
    return installed


def present_hardware() -> set[str]:
    """The hardware classes that this machine has."""
    return {finding.name for finding in hardware() if finding.state == "ok"}


def _silent(line: str) -> None:
    """Says nothing."""


def _introduction(choice: Choice) -> str:
    own, *others = [
        f"{found.name}@{found.commit}, licence: {found.licence or 'see its page'}"
        for found in (part.found for part in (choice.own, *choice.beside))
    ]
    lines = [f"{own}, engine: {choice.engine}", *(f"beside it: {each}" for each in others)]
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
        there = sum(cache.collected_bytes(each.name, each.commit, each.paths) for each in choice.downloads)
        if not quiet:
            note(f"Stopped. {there / GB:.2f} GB are here; the same command continues there.")
        raise


def _tried(installed: InstalledModel, store: InstalledModels, say: Say) -> InstalledModel:
    """The model with the figures of its trial. Raises `MotetError` if it does not work: it stays on the disk, and is not
    configured."""
    from serve_app.cli.local import reason_of

    try:
        tried, trial, about = try_and_note(installed, store)
    except Exception as error:
        cause = f"{installed.name} does not work here, and was not configured: {reason_of(error)}"
        remedy = f"motet models remove {installed.name} frees the disk; --no-try configures it all the same."
        raise fail("unavailable", cause, remedy, code="trial_failed") from error
    memory = f", {trial.memory_bytes / GB:.2f} GB of memory" if trial.memory_bytes else ""
    say(f"{about}; loaded in {trial.load_seconds:.1f} s, {trial.times_real_time:.1f} times real time{memory}")
    return tried


def try_and_note(installed: InstalledModel, store: InstalledModels) -> tuple[InstalledModel, Trial, str]:
    """Tries a model, and notes the figures. Returns the model with them, the figures, and what came of it in words. Raises
    what loading and the engine raise."""
    from serve_app.cli.models_trial import trial_of

    outcome = trial_of(installed.name, Model.model_validate(installed.configuration))
    tried = installed.model_copy(update={"trial": outcome.trial})
    with cache.locked(*(part.repository for part in installed.parts)):
        if store.all().get(installed.name) != installed:
            cause = f"{installed.name} was removed or changed while it was tried."
            raise fail("conflict", cause, "Add it again.", code="model_changed")
        store.save(tried)
    return tried, outcome.trial, outcome.about


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

    Raises `MotetError`: not_found if it was neither added nor configured, invalid if a damaged note may need its weights.
    """
    store = InstalledModels(settings)
    installed = store.find(name)
    if installed is not None and not keep_weights:
        store.ensure_decidable(installed)  # before the configuration changes
    left = config is not None and config.is_file() and config_edit.remove_model(config, name)
    if installed is None and not left:
        raise fail("not_found", f"No model {name!r} was added.", "motet models lists them.", param="name")
    done = [f"{name} is no longer in {config}"] if left else []
    if installed is not None and keep_weights:
        with cache.locked(installed.repository):
            store.remove(name)
        done.append("its weights are kept")
    elif installed is not None:
        freed = remove_installed(installed, store, weight_uses(m for other, m in configured.items() if other != name))
        kept = "its weights are kept, because another model has them"
        done.append(kept if freed is None else f"{freed / GB:.2f} GB are free")
    if not quiet:
        note(f"{'; '.join(done)}.")
