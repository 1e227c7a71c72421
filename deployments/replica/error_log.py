"""The replica's log of failed requests: model, traceback and request id.

Ray Serve passes the request id on with every call to a replica, and its formatter writes it before each message.
"""

from __future__ import annotations

import logging
import traceback

from deployments.errors import Failure, as_failure

logger = logging.getLogger("ray.serve")


def ignore_unwritten_lines() -> None:
    """Lets this process go on when a line of its log cannot be written, because the disk is full.

    By default `logging` prints the error on standard error. Ray Serve 2.60 sends that to the same log, which fails again, and
    again: the event loop of a replica stood still until its health checks had failed.
    """
    logging.raiseExceptions = False


def logged_failure(error: Exception, model: str) -> Failure:
    """The exception as a `Failure`; a failure of the engine is logged with its traceback."""
    failure = as_failure(error)
    if failure.kind == "engine":
        log_error(f"{model} failed on a request: {failure.explained}", error)
    return failure


def log_error(message: str, error: Exception) -> None:
    """Logs the message with the exception's traceback."""
    # Ray Serve 2.60 replaces `print` in replicas, so the traceback module would write each line as a tuple.
    logger.error("%s\n%s", message, "".join(traceback.format_exception(error)).rstrip())
