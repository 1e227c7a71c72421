"""Where hub models lie on this disk: in the cache of the hub's own client, which `HF_HOME` and `HF_HUB_CACHE` move.

A snapshot is a folder with the files of one commit. Other programs that use the hub's client find it there, too.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

UNFINISHED = "unfinished"
"""The folder, beside the snapshots of a repository, with downloads that are under way."""
PART = ".part"
"""The end of the name of a file that is not complete, or was not checked."""


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


def publish(name: str, commit: str) -> Path:
    """Moves the files that were collected into the snapshot, which appears as a whole if it was not there before."""
    folder, collected = snapshot(name, commit), unfinished(name, commit)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        collected.rename(folder)
    else:
        for file in [each for each in collected.rglob("*") if each.is_file()]:
            target = folder / file.relative_to(collected)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
        shutil.rmtree(collected)
    _remove_empty(collected.parent)
    return folder


def discard(name: str, commit: str) -> None:
    """Removes what was collected of a commit, and the folders that are empty then."""
    shutil.rmtree(unfinished(name, commit), ignore_errors=True)
    _remove_empty(unfinished(name, commit).parent)
    _remove_empty(repository(name))


def remove(name: str, commit: str) -> int:
    """Removes the snapshot of a commit with the contents that only it uses. Returns the bytes that are free now."""
    folder, freed = snapshot(name, commit), 0
    contents = {file.resolve() for file in folder.rglob("*") if file.is_symlink()}
    freed += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    shutil.rmtree(folder, ignore_errors=True)
    used = (
        {file.resolve() for file in folder.parent.rglob("*") if file.is_symlink()} if folder.parent.is_dir() else set()
    )
    for content in contents - used:
        if repository(name).resolve() in content.parents and content.is_file():
            freed += content.stat().st_size
            content.unlink()
    discard(name, commit)
    if folder.parent.is_dir() and not any(folder.parent.iterdir()):
        shutil.rmtree(repository(name), ignore_errors=True)  # no commit is left, only the client's notes
    return freed


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it is not there, or it is not empty
        folder.rmdir()
