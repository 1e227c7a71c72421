"""Models that a service is adding to this machine: a small file with the state of each, and one that is locked (`flock`)
as long as the process lives that adds it.

All services and gateways of the machine see the same files. The system releases a lock when its process ends, however
it ends.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from deployments.catalogue.entries import NAME_PATTERN
from deployments.catalogue.installed import RegistrySettings
from deployments.file_lock import try_lock
from deployments.settings import StrictModel

FOLDER = "additions"
"""The folder in `registry.folder`."""
STATE, LOCK, CANCELLED = ".state", ".lock", ".cancelled"
"""The ends of the names of an addition's files."""
ATTEMPTS, PAUSE_S = 5, 0.02
"""Whoever reads a state holds the lock for some microseconds."""
INTERRUPTED = "It was interrupted. Send it again: it continues with what is there."

Bytes = Annotated[int, Field(ge=0)]
AdditionState = Literal["fetching", "trying", "failed"]


class Addition(StrictModel):
    """How far a model is that is being added."""

    state: AdditionState = "fetching"
    received_bytes: Bytes = 0
    """Bytes of its files that are on this disk."""
    total_bytes: Bytes | None = None
    """Bytes of all its files; null until they are known."""
    cause: str | None = None
    """Why it failed, and what to do."""


class AdditionOrder(StrictModel):
    """What the process that adds a model is told. It inherits the descriptor `lock`, which holds the lock of the model."""

    name: str
    """An entry of the catalogue."""
    hardware: str | None = None
    """The class on which the model runs; null for the first one that this machine has."""
    try_it: bool = False
    """Whether the model is tried when it is here."""
    registry: RegistrySettings
    lock: int


class Additions:
    """The additions of one `registry.folder`. `pause` waits for some seconds."""

    def __init__(self, settings: RegistrySettings, pause: Callable[[float], None] = time.sleep) -> None:
        self._folder = Path(settings.folder).expanduser() / FOLDER
        self._pause = pause

    def all(self) -> dict[str, Addition]:
        """All additions that run or failed, by the name of the model."""
        names = (file.name.removesuffix(STATE) for file in sorted(self._folder.glob(f"*{STATE}")))
        found = ((name, self.find(name)) for name in names)
        return {name: addition for name, addition in found if addition is not None}

    def find(self, name: str) -> Addition | None:
        """The addition of a model; None if it is not being added and did not fail. One whose process has died failed."""
        if not re.fullmatch(NAME_PATTERN, name):
            return None
        written = self._read(name)
        if written is None or written.state == "failed" or self.runs(name):
            return written
        # The process may have written its last state before it released the lock.
        written = self._read(name)
        if written is None or written.state == "failed":
            return written
        return written.model_copy(update={"state": "failed", "cause": INTERRUPTED})

    def running(self) -> Collection[str]:
        """The names of the models that are being added."""
        return [name for name, addition in self.all().items() if addition.state != "failed"]

    def runs(self, name: str) -> bool:
        """Whether a process adds the model now."""
        try:
            file = os.open(self._file(name, LOCK), os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            return not try_lock(file, fcntl.LOCK_SH)
        finally:
            os.close(file)

    def lock(self, name: str) -> int | None:
        """A descriptor of the model's lock, which this program holds until it and all its copies are closed; None if another
        one has it. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = os.open(self._file(name, LOCK), os.O_RDWR | os.O_CREAT, 0o600)
        for attempt in range(ATTEMPTS):
            if try_lock(file, fcntl.LOCK_EX):
                return file
            if attempt < ATTEMPTS - 1:
                self._pause(PAUSE_S)
        os.close(file)
        return None

    def write(self, name: str, addition: Addition) -> None:
        """Writes a state, which appears as a whole. Hold the lock."""
        part = self._file(name, f"{STATE}.part")
        try:
            part.write_text(addition.model_dump_json())
            part.replace(self._file(name, STATE))
        finally:
            part.unlink(missing_ok=True)

    def clear(self, name: str) -> None:
        """Removes the state and the wish to cancel, if they are there. Hold the lock."""
        for end in (STATE, CANCELLED):
            self._file(name, end).unlink(missing_ok=True)

    def cancel(self, name: str) -> None:
        """Asks the process that adds the model to end."""
        self._file(name, CANCELLED).touch()

    def is_cancelled(self, name: str) -> bool:
        """Whether the process that adds the model was asked to end."""
        return self._file(name, CANCELLED).exists()

    def _read(self, name: str) -> Addition | None:
        try:
            return Addition.model_validate_json(self._file(name, STATE).read_text())
        except FileNotFoundError:
            return None
        except ValidationError:  # of another version
            return Addition(state="failed", cause=INTERRUPTED)

    def _file(self, name: str, end: str) -> Path:
        return self._folder / f"{name}{end}"
