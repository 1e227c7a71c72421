"""The replica's log of requests that failed: the model, the traceback, and through Ray Serve's formatter the request id."""

from __future__ import annotations

import logging
import traceback

from deployments.errors import Failure, as_failure

logger = logging.getLogger("ray.serve")


def logged_failure(error: Exception, model: str) -> Failure:
    """The exception as a `Failure`. One that is an engine's fault is logged with its traceback.

    The traceback is formatted here: in a Ray Serve 2.60 replica the logging module writes each of its lines as a tuple, since
    Ray replaces `print` there.
    """
    failure = as_failure(error)
    if failure.kind == "engine":
        lines = "".join(traceback.format_exception(error)).rstrip()
        logger.error("%s failed on a request: %s\n%s", model, failure.explained, lines)
    return failure
