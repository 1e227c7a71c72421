"""The first machine of a cluster is lost and comes back while streams run on another one, and Redis keeps the state."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from serve_app.bench.frame import Sheet
from tests.load.cluster import FIRST_AFTER, FIRST_FIGURES, FIRST_KEPT, FIRST_MEANWHILE, FIRST_STREAMS, measure_first
from tests.load.local_cluster import local_cluster, redis_store

pytestmark = pytest.mark.alone

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


@needs_redis
@pytest.mark.timeout(500)  # two nodes start, one twice, and streams go on meanwhile
def test_streams_requests_and_replicas_outlive_the_first_machine() -> None:
    sheet = Sheet(FIRST_FIGURES, print)
    with redis_store() as store, local_cluster(store) as cluster:
        asyncio.run(measure_first(sheet, cluster, before_s=3.0, away_s=5.0))
    figures = {figure.name: figure for figure in sheet.figures}
    for name in (FIRST_STREAMS, FIRST_MEANWHILE, FIRST_AFTER, FIRST_KEPT):
        assert figures[name].verdict == "met", figures[name]
