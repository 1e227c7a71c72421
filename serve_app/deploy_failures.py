"""Why a service does not start, from the status of its deployments in Ray Serve."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.serve.schema import ApplicationStatusOverview

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt|Failure)\b.*", re.MULTILINE)
"""Where a traceback names what was raised."""
LAST_LINES = 5
LONGEST_CAUSE = 2000
"""Characters; more than a mistake needs to be understood."""
UP = ("HEALTHY", "UPSCALING", "DOWNSCALING")


def cause_of(application: ApplicationStatusOverview) -> str:
    """Why Ray Serve gave up the application: what the constructors of its replicas raised, or Ray Serve's own message."""
    return "\n".join(troubles_of(application)) or _last_words(application.message)


def troubles_of(application: ApplicationStatusOverview) -> Iterator[str]:
    """One text for each deployment that is not up and has a message."""
    for name, deployment in application.deployments.items():
        if deployment.status not in UP and deployment.message:
            yield f"{name}: {_last_words(deployment.message)}"


def _last_words(message: str) -> str:
    """What was raised at the end of a message with a traceback in it, and its last lines where nothing was."""
    plain = COLOURS.sub("", message).strip()
    raised = list(EXCEPTION.finditer(plain))
    cause = plain[raised[-1].start() :] if raised else "\n".join(plain.splitlines()[-LAST_LINES:])
    return cause[:LONGEST_CAUSE]
