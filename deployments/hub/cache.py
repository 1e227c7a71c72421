"""Where hub models lie on this disk: in the cache of the hub's own client, which `HF_HOME` and `HF_HUB_CACHE` move.

A snapshot is a folder with the files of one commit. Other programs that use the hub's client find it there, too.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from deployments.hub.files import is_safe, is_weight

UNFINISHED = "unfinished"
"""The folder, beside the snapshots of a repository, with downloads that are under way."""
PART = ".part"
"""The end of the name of a file that is not complete, or was not checked."""
VIEWS = "views"
"""The folder, beside the snapshots of a repository, with a folder of links for each set of weights of a commit."""


def root() -> Path:
    """The hub's cache on this machine."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def repository(name: str) -> Path:
    """The folder of a repository, such as that of `org/name`."""
    from huggingface_hub.file_download import repo_folder_name

    return root() / repo_folder_name(repo_id=name, repo_type="model")


def snapshot(name: str, commit: str) -> Path:
    """The folder of a commit, whether or not it is there."""
    return repository(name) / "snapshots" / commit


def unfinished(name: str, commit: str) -> Path:
    """Where the files of a commit are collected until all of them were checked."""
    return repository(name) / UNFINISHED / commit


def holds(name: str, commit: str, paths: Iterable[str]) -> bool:
    """Whether the snapshot of a commit has these files. Reads none of them."""
    folder = snapshot(name, commit)
    return folder.is_dir() and all((folder / path).is_file() for path in paths)


def collected_bytes(name: str, commit: str, paths: Iterable[str]) -> int:
    """Bytes of these files that were downloaded and are not in the snapshot yet."""
    return sum(file.stat().st_size for file in _collected(name, commit, paths))


def publish(name: str, commit: str, paths: Iterable[str]) -> Path:
    """Moves collected files into the snapshot, which appears as a whole if it was not there before. Other collected files
    stay: they are another download's."""
    folder, collected = snapshot(name, commit), unfinished(name, commit)
    target = folder if folder.exists() else collected.with_name(f"{commit}.whole")
    if target != folder:
        shutil.rmtree(target, ignore_errors=True)  # of a program that was killed here
    for path in paths:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (collected / path).replace(target / path)
    if target != folder:
        folder.parent.mkdir(parents=True, exist_ok=True)
        target.rename(folder)
    _prune(collected)
    _remove_empty(collected.parent)
    return folder


def discard(name: str, commit: str, paths: Iterable[str]) -> None:
    """Removes what was collected of these files, and the folders that are empty then."""
    for file in _collected(name, commit, paths):
        file.unlink()
    _prune(unfinished(name, commit))
    _remove_empty(unfinished(name, commit).parent)
    _remove_empty(repository(name))


def discard_unfinished(name: str) -> int:
    """Removes what was collected of all commits. Returns the bytes that are free now. Raises `BlockingIOError` if another
    program changes the repository."""
    if not (repository(name) / UNFINISHED).is_dir():
        return 0
    with locked(name, waits=False):
        folder = repository(name) / UNFINISHED
        freed = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        shutil.rmtree(folder)
    return freed


def remove(name: str, commit: str, paths: Iterable[str] | None = None) -> int:
    """Removes files of a snapshot, by default all, with the contents that only they use. Returns the bytes that are free now.

    Downloads that are not finished stay. Hold the lock of the repository.
    """
    folder, freed = snapshot(name, commit), 0
    files = [*folder.rglob("*")] if paths is None else [folder / path for path in paths]
    contents = {file.resolve() for file in files if file.is_symlink()}
    for file in files:
        if file.is_file() and not file.is_symlink():
            freed += file.stat().st_size
        if file.is_file() or file.is_symlink():
            file.unlink()
    _prune(folder)
    for content in contents - {file.resolve() for file in folder.parent.rglob("*") if file.is_symlink()}:
        if repository(name).resolve() in content.parents and content.is_file():
            freed += content.stat().st_size
            content.unlink()
    _remove_broken_views(name)
    _remove_empty(folder.parent)
    if not folder.parent.is_dir() and not (repository(name) / UNFINISHED).is_dir():
        shutil.rmtree(repository(name), ignore_errors=True)  # no commit is left, only the client's notes
    return freed


def view(name: str, commit: str, weights: Collection[str], beside: Mapping[str, Path] | None = None) -> Path:
    """A folder with links to these weight files of a snapshot, and to all its files without weights that engines read.

    So a model does not see the weights of another one that has the same commit. `beside` are files of other repositories, by
    their path in the folder, where they take the place of files without weights. Raises `OSError`.
    """
    folder, others = snapshot(name, commit), beside or {}
    small = (str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    own = {*weights, *(each for each in small if is_safe(each) and not is_weight(each))}
    targets = {**{path: folder / path for path in own}, **others}
    lines = [*sorted(weights), *(f"{path} {others[path].relative_to(root())}" for path in sorted(others))]
    key = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    place = repository(name) / VIEWS / f"{commit}-{key}"
    for path, target in targets.items():
        link = place / path
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # it has the same target
            link.symlink_to(os.path.relpath(target, link.parent))
    return place


@contextmanager
def locked(*names: str, waits: bool = True) -> Iterator[None]:
    """Lets one process at a time change these repositories: a second one waits, or, without `waits`, gets
    `BlockingIOError`. A process cannot hold one twice."""
    with ExitStack() as held:
        for name in sorted(set(names)):  # all take them in one order, so that no two wait for each other
            held.enter_context(_locked(repository(name), fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB))
        yield


@contextmanager
def _locked(folder: Path, kind: int) -> Iterator[None]:
    held = _lock(folder, kind)
    try:
        yield
    finally:
        _remove_empty(folder)  # if nothing came
        os.close(held)


def _lock(folder: Path, kind: int) -> int:
    """The descriptor of the locked folder. Who waits for it may find that the one before has removed it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            held = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(held, kind)
                if os.path.samestat(folder.stat(), os.fstat(held)):
                    return held
            except BaseException:
                os.close(held)
                raise
            os.close(held)


def _collected(name: str, commit: str, paths: Iterable[str]) -> Iterator[Path]:
    """What is there of files that are collected: whole ones, and the beginnings of others."""
    folder = unfinished(name, commit)
    for path in paths:
        whole = folder / path
        yield from (file for file in (whole, whole.with_name(f"{whole.name}{PART}")) if file.is_file())


def _remove_broken_views(name: str) -> None:
    """Removes views with links to files that are gone."""
    folder = repository(name) / VIEWS
    for place in folder.iterdir() if folder.is_dir() else ():
        if any(link.is_symlink() and not link.exists() for link in place.rglob("*")):
            shutil.rmtree(place)
    _remove_empty(folder)


def _prune(folder: Path) -> None:
    """Removes a folder and those in it, as far as they are empty."""
    inside = (each for each in folder.rglob("*") if each.is_dir() and not each.is_symlink())
    for each in sorted(inside, key=lambda each: len(each.parts), reverse=True):
        _remove_empty(each)
    _remove_empty(folder)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it is not there, or it is not empty
        folder.rmdir()
