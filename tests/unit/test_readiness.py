"""The readiness check of a service."""

from __future__ import annotations

import gc
import weakref

from serve_app.gateway.placement_reports import PlacementReports
from serve_app.gateway.routing.directory import ModelDirectory


async def test_reports_do_not_keep_the_directory_of_a_service_that_ended() -> None:
    directory, reports = ModelDirectory({}, {}), PlacementReports()
    assert await reports.all(directory) == {}
    ended = weakref.ref(directory)
    del directory
    gc.collect()
    assert ended() is None
