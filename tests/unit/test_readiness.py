"""The readiness check of a service."""

from __future__ import annotations

import gc
import weakref

from serve_app.gateway.routes import health
from serve_app.gateway.routing.directory import ModelDirectory


async def test_a_service_that_ended_is_freed_with_its_readiness_check() -> None:
    directory = ModelDirectory({}, {})
    check = health._CHECKS.setdefault(directory, health.ReadinessCheck())
    assert await check.reports(directory) == []
    ended = weakref.ref(directory)
    del directory
    gc.collect()
    assert ended() is None
