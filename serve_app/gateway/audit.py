"""The audit log: a line for each administrative act, and for each key that is refused. It has no key and no digest."""

from __future__ import annotations

import json
import logging

from serve_app.gateway.request_context import current_request

logger = logging.getLogger("ray.serve")

MARK = "AUDIT"
"""The word with which every line begins."""


def audit(act: str, **facts: object) -> None:
    """Logs an act with its facts, as JSON, with the request in which it happens."""
    request = current_request()
    place = {"request": request.id, "route": request.title} if request.method else {}
    logger.warning("%s %s", MARK, json.dumps({"act": act, **facts, **place}, default=str))
