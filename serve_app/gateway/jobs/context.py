"""The job that the current task runs, for the parts of the gateway that treat one in another way than a request.

A job is the lowest class. Its audio is queued apart from that of requests (`routing/admission.py`), its windows, chunks and
pieces come after theirs in a step, and while others use the replicas it has one part under way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Protocol

from deployments.errors import MotetError, fail

LATE_S = 60.0
"""How long a part of a job counts as having waited less than that of a request. It still comes, after that time."""


class KeepsParts(Protocol):
    """Keeps finished parts of a job by their content address: see `FinishedParts`."""

    @property
    def advanced(self) -> bool:
        """Whether a part was kept since this attempt began."""

    def has(self, address: str) -> bool:
        """Whether the part is there."""

    def get(self, address: str) -> Awaitable[bytes | None]:
        """The part; None if it is not there."""

    def keep(self, address: str, data: bytes) -> Awaitable[None]:
        """Keeps a part."""


class HasProgress(Protocol):
    """How far a job is, in seconds of audio: see `Ticket`."""

    made_seconds: float
    asked: float


@dataclass(slots=True)
class RunningJob:
    """What the gateway knows of a job that runs. `progress` is its place in a queue, once it has one. `charged_seconds` of
    audio were taken from its key's quota, in all attempts. `last_attempt`: it fails if this one fails without a new part."""

    parts: KeepsParts
    progress: HasProgress | None = None
    charged_seconds: float = 0.0
    last_attempt: bool = True

    @property
    def again(self) -> bool:
        """Whether the job begins again if this attempt fails in the service. One that made a part is not its last: it is not
        counted, so that replicas that die do not end a long job."""
        return self.parts.advanced or not self.last_attempt


def address_of(*decisive: object) -> str:
    """The content address of a part: equal for equal values of everything that decides its content within its job. Another
    version of Motet may cut a recording at other places."""
    return hashlib.sha256("\0".join(map(repr, (_version(), *decisive))).encode()).hexdigest()


@cache
def _version() -> str:
    return version("motet")


def part_lost() -> MotetError:
    """The error for a finished part that cannot be read any more. The job begins again without it."""
    return fail("unavailable", "A finished part of the job is lost.", "Try again.", code="part_lost")


JOB: ContextVar[RunningJob | None] = ContextVar("JOB", default=None)
"""The job of this task; None for a request."""
