"""How a chosen model comes to this disk and leaves it, with its note."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence

from deployments.catalogue.choice import Choice
from deployments.catalogue.entries import CatalogueEntry, CatalogueFiles
from deployments.catalogue.installed import InstalledBeside, InstalledModel, InstalledModels, WeightUse
from deployments.errors import fail
from deployments.hub import cache
from deployments.hub.download import SPARE_BYTES, Progress, fetch_locked

GB = 1e9


def fetch_and_note(choice: Choice, store: InstalledModels, progress: Progress) -> InstalledModel:
    """Downloads the files of a model as far as they are missing, checks them, and notes what was pinned.

    Raises `MotetError`, also if another model was added under the same name.
    """
    _ensure_own_name(choice, store)
    with cache.locked(*(each.name for each in choice.downloads)):  # until the note says that the files are used
        fetch_locked(choice.downloads, progress)
        installed = choice.installed()
        store.save(installed)
    return installed


def _ensure_own_name(choice: Choice, store: InstalledModels) -> None:
    noted = store.all().get(choice.name)
    if noted is not None and (noted.entry, noted.repository) != (choice.entry, choice.own.found.name):
        cause = f"Another model was added as {choice.name!r}: {noted.repository}."
        raise fail("conflict", cause, "Remove it first, or name this one with --as NAME.", param="name")


def remove_installed(
    installed: InstalledModel, store: InstalledModels, used: Iterable[WeightUse], *, waits: bool = True
) -> int | None:
    """Removes a note, and its files except those that another note has or that are `used`. Returns the bytes that are free
    now; None if all weights were kept because other models have them. A removal that fails leaves the note, and can be
    repeated.

    Raises `MotetError` (invalid) if a damaged note may need them, and `BlockingIOError` without `waits`, if another program
    changes files of a repository. Then nothing was changed.
    """
    with cache.locked(*(part.repository for part in installed.parts), waits=waits):
        store.ensure_decidable(installed)
        store.remove(installed.name)  # first: the lock goes with the repository's folder
        uses = [*used, *(use for other in store.all().values() for use in other.uses)]
        try:
            # The own files last: their removal clears away the views whose links lead to files that are gone.
            freed = [_remove_unused(part, uses) for part in reversed(installed.parts)]
        except BaseException:
            store.save(installed)
            raise
    return None if set(freed) == {None} else sum(each or 0 for each in freed)


def _remove_unused(part: InstalledModel | InstalledBeside, uses: Sequence[WeightUse]) -> int | None:
    """Removes the files of one repository that no other model uses. If one uses any of them, files without weights stay: it
    may need them. None if all weights stay."""
    others = [set(paths) for source, paths in uses if source == part.source]
    unused = set(part.weights).difference(*others) if all(others) else set[str]()
    if others:
        freed = cache.remove(part.repository, part.revision, unused)
        return freed if unused else None
    # Of another repository than the model's own nothing else goes: other programs may have more of it.
    return cache.remove(part.repository, part.revision, part.files if isinstance(part, InstalledBeside) else None)


def uses(installed: InstalledModel, used: Iterable[WeightUse]) -> bool:
    """Whether one of the uses has weights of an added model; files beside them may be another model's, too."""
    own = set(installed.weights)
    return any(source == installed.source and (not paths or not own.isdisjoint(paths)) for source, paths in used)


def bytes_here(entry: CatalogueEntry) -> int:
    """Bytes of the files of an entry that are on this disk, checked or not. Files of an unknown commit are not counted."""
    return sum(map(_bytes_here, entry.parts))


def _bytes_here(part: CatalogueFiles) -> int:
    if part.revision is None:
        return 0
    folder = cache.snapshot(part.repository, part.revision)
    there = [file.stat().st_size for path in part.files if (file := folder / path).is_file()]
    return sum(there) + cache.collected_bytes(part.repository, part.revision, part.files)


def ensure_room(entry: CatalogueEntry) -> None:
    """Raises `MotetError` (storage_full) if the disk has no room for the files of an entry that are not there. Files of
    unknown size are not counted; the download looks again when it knows them."""
    sizes = [file.size or 0 for part in entry.parts for file in part.files.values()]
    needed = max(sum(sizes) - bytes_here(entry), 0)
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
