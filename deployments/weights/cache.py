"""Where converted weights are kept: one folder for each set of inputs, made once and never changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path


def home() -> Path:
    """`$MOTET_CACHE`, or `motet` in the user's cache folder (`$XDG_CACHE_HOME`, else `~/.cache`)."""
    if chosen := os.environ.get("MOTET_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "motet"


def kept(name: str, inputs: Sequence[Path], make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills from `inputs`.

    It is named after `name` and the contents of the inputs, so that other weights, or another version of the conversion in
    `name`, never meet it. `make` fills a folder beside it that takes its name when it is whole: who converts at the same
    time, or is killed, leaves nothing half made.
    """
    folder = home() / "weights" / f"{name}-{_digest(inputs)}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        make(work)
        work.chmod(0o755)
        work.rename(folder)
    except OSError:
        if not folder.is_dir():  # else somebody else was first, with the same contents
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _digest(inputs: Sequence[Path]) -> str:
    """The first 16 hexadecimal digits of a SHA-256 over every input's name and contents."""
    digest = hashlib.sha256()
    for path in inputs:
        with path.open("rb") as stream:
            digest.update(path.name.encode() + b"\0" + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
