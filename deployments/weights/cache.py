"""A cache of converted weights in the user's cache folder, by the hash of the files that they were converted from."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path


def root() -> Path:
    """The folder of converted weights: `$XDG_CACHE_HOME/motet/weights`, by default under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "motet" / "weights"


def key_of(layout: int, files: Iterable[Path]) -> str:
    """The SHA-256 of the files' contents and of the converter's layout number, so that a new layout has a new key."""
    digest = hashlib.sha256(f"layout {layout}".encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def converted(name: str, key: str, convert: Callable[[Path], None]) -> Path:
    """The folder that `convert` filled for this key, now or earlier.

    It appears as a whole or not at all. If two processes convert at once, both use the folder of the first to finish.
    """
    folder = root() / f"{name}-{key[:32]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        convert(unfinished)
        unfinished.chmod(0o755)
        _publish(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _publish(unfinished: Path, folder: Path) -> None:
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
