"""Folders of Ray clusters that have ended. Each start of Ray makes one, with its logs, and Ray never removes any."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

KEPT = 5
"""Ended sessions whose logs stay, for whoever looks for the cause of an end."""
LEAST_AGE_S = 3600.0
"""A younger session may be of a cluster that is starting."""


def sessions_folder() -> Path:
    """Where Ray puts its sessions on this machine."""
    return Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray"  # noqa: S108  (Ray's choice)


def remove_old(
    folder: Path, command_lines: Callable[[], Iterator[str]] | None = None, now_s: float | None = None
) -> None:
    """Removes this user's ended sessions, except the last ones. `command_lines` of all processes say which are in use."""
    ended = [session for session in sorted(folder.glob("session_*")) if _is_old(session, now_s or time.time())]
    if len(ended) <= KEPT:
        return
    running = "\n".join((command_lines or _command_lines)())
    for session in [session for session in ended if session.name not in running][:-KEPT]:
        shutil.rmtree(session, ignore_errors=True)


def _is_old(session: Path, now_s: float) -> bool:
    try:
        facts = session.lstat()
    except OSError:
        return False
    own = session.is_dir() and not session.is_symlink() and facts.st_uid == os.getuid()
    return own and now_s - facts.st_mtime > LEAST_AGE_S


def _command_lines() -> Iterator[str]:
    for process in psutil.process_iter(["cmdline"]):
        yield " ".join(process.info["cmdline"] or ())
