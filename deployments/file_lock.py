"""Locks of files that the system releases when their process ends, however it ends."""

from __future__ import annotations

import fcntl


def try_lock(file: int, kind: int) -> bool:
    """Locks an open file (`LOCK_EX` or `LOCK_SH`) without waiting. False if another program holds a lock that excludes it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
