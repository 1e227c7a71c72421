"""The first machine of a cluster is lost and comes back while streams run on another one, and Redis keeps the state."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from serve_app.bench.frame import Sheet
from tests.load.cluster import FIRST_FIGURES, measure_first
from tests.load.local_cluster import local_cluster, redis_store

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


@needs_redis
def test_streams_requests_and_replicas_outlive_the_first_machine() -> None:
    sheet = Sheet(FIRST_FIGURES, print)
    with redis_store() as store, local_cluster(store) as cluster:
        asyncio.run(measure_first(sheet, cluster, before_s=3.0, away_s=5.0))
    assert {figure.name: figure for figure in sheet.figures if figure.verdict != "met"} == {}
