"""Which service a folder of jobs belongs to while that runs. All gateways of one service share the folder. No other service
may take its jobs: it may have other models, keys and settings.

Each gateway holds a shared lock (`flock`) on a file of the folder, which names its service, and so does `motet serve`: its
only gateway may be replaced. The system releases the lock when the process ends, however it ends, so nothing is left behind
that somebody must remove. On a cluster without `motet serve`, another service may take the folder while no gateway runs.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path

from deployments.errors import MotetError, fail
from deployments.file_lock import try_lock

LOCK_FILE = "service.lock"
OTHER_REMEDY = "Stop the other one, or give one of them another jobs.folder; then this works within some seconds."
MAX_BYTES = 4096
ATTEMPTS, PAUSE_S = 5, 0.05
"""Two gateways that start together get in each other's way for less than a millisecond."""


class FolderClaim:
    """The folder belongs to `service` as long as this lives. Raises `MotetError` (unavailable) if it belongs to another one
    that runs, and OSError if it cannot be locked."""

    def __init__(self, folder: Path, service: str) -> None:
        self._file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            for attempt in range(ATTEMPTS):
                if _shared(self._file, service):
                    return
                fcntl.flock(self._file, fcntl.LOCK_UN)
                if attempt < ATTEMPTS - 1:
                    time.sleep(PAUSE_S)
            raise _taken(folder, _read(self._file))
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Gives the folder up. A service has it until its gateways end."""
        os.close(self._file)


def _shared(file: int, service: str) -> bool:
    """Locks the file for the service, if no other one has it."""
    if try_lock(file, fcntl.LOCK_EX):  # nobody else has it
        os.ftruncate(file, 0)
        os.pwrite(file, _written(service), 0)
    # Between the two locks another service may have taken the folder, so the name is read under this one.
    return try_lock(file, fcntl.LOCK_SH) and _read(file).get("service") == service


def _written(service: str) -> bytes:
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return json.dumps({"service": service, "pid": os.getpid(), "since": since}).encode()


def _read(file: int) -> dict[str, object]:
    try:
        owner = json.loads(os.pread(file, MAX_BYTES, 0))
    except ValueError:  # it is being written
        return {}
    return owner if isinstance(owner, dict) else {}


def _title(owner: dict[str, object]) -> str:
    name, pid, since = (owner.get(part, "unknown") for part in ("service", "pid", "since"))
    return f"service {name}, process {pid}, since {since}"


def _taken(folder: Path, owner: dict[str, object]) -> MotetError:
    cause = "The folder of jobs belongs to another service that runs."
    return fail("unavailable", cause, OTHER_REMEDY, code="jobs_folder_taken", detail=f"{folder}: {_title(owner)}")
