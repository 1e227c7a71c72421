"""How a chosen model comes to this disk and leaves it, with its note."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable

from deployments.catalogue.choice import Choice
from deployments.catalogue.entries import CatalogueEntry
from deployments.catalogue.installed import InstalledModel, InstalledModels
from deployments.errors import fail
from deployments.hub import cache
from deployments.hub.download import SPARE_BYTES, Progress, fetch_locked

GB = 1e9
WeightUse = tuple[str | None, Collection[str]]
"""The source of a model, such as `hf:org/name@commit`, and the paths of its weight files."""


def fetch_and_note(choice: Choice, store: InstalledModels, progress: Progress) -> InstalledModel:
    """Downloads the files of a model as far as they are missing, checks them, and notes what was pinned.

    Raises `MotetError`.
    """
    with cache.locked(choice.found.name):  # until the note says that the files are used
        installed = choice.installed(fetch_locked(choice.download, progress))
        store.save(installed)
    return installed


def remove_installed(
    installed: InstalledModel, store: InstalledModels, used: Iterable[WeightUse], *, waits: bool = True
) -> int | None:
    """Removes a note, and its weights except those that another note has or that are `used`. Returns the bytes that are free
    now; None if all weights were kept because other models have them.

    Raises `BlockingIOError` without `waits`, if another program changes files of the repository.
    """
    with cache.locked(installed.repository, waits=waits):
        store.remove(installed.name)
        others = [*_of_notes(installed, store), *(paths for source, paths in used if source == installed.source)]
        own = set(installed.weights).difference(*others)
        if others and not own:
            return None
        return cache.remove(installed.repository, installed.revision, own if others else None)


def uses(installed: InstalledModel, used: Iterable[WeightUse]) -> bool:
    """Whether one of the uses has weights of an added model. A use that names no files has all of them."""
    own = set(installed.weights)
    return any(source == installed.source and (not paths or not own.isdisjoint(paths)) for source, paths in used)


def bytes_here(entry: CatalogueEntry) -> int:
    """Bytes of the files of an entry that are on this disk, checked or not; 0 if the catalogue does not know its commit."""
    if entry.revision is None:
        return 0
    folder = cache.snapshot(entry.repository, entry.revision)
    there = [file.stat().st_size for path in entry.files if (file := folder / path).is_file()]
    return sum(there) + cache.collected_bytes(entry.repository, entry.revision, entry.files)


def ensure_room(entry: CatalogueEntry) -> None:
    """Raises `MotetError` (storage_full) if the disk has no room for the files of an entry that are not there. Files of
    unknown size are not counted; the download looks again when it knows them."""
    needed = max(sum(file.size or 0 for file in entry.files.values()) - bytes_here(entry), 0)
    free = _free_bytes()
    if free < needed + SPARE_BYTES:
        cause = f"The service's disk has {free / GB:.1f} GB free, and the download needs {needed / GB:.1f} GB."
        raise fail("storage_full", cause, "Remove models, or ask the operator for room.", code="disk_full")


def _free_bytes() -> int:
    """Free bytes where the hub's cache is, or will be."""
    folder = cache.root()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _of_notes(installed: InstalledModel, store: InstalledModels) -> list[Collection[str]]:
    """The weight files of each other added model with the same commit."""
    return [other.weights for other in store.all().values() if other.source == installed.source]
