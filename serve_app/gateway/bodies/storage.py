"""The failure of a request whose data does not fit on a disk of the service."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.errors import fail

FULL = (errno.ENOSPC, errno.EDQUOT)
"""The disk is full, or the quota of the user is."""


@contextmanager
def storing(what: str) -> Iterator[None]:
    """A context in which `what` is written to a disk. Raises `MotetError` (storage_full) if the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise fail(
            "storage_full",
            f"The service's disk for {what} is full.",
            "Delete voices that you no longer need, or send less. The operator of this service must free space on the disk.",
            code="storage_full",
        ) from error
