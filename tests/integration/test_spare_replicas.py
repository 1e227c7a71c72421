"""A spare replica gets no requests until the other one is lost or silent, in a real cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray import serve
from ray.serve.config import RequestRouterConfig

from cluster.ray_private import replica_ids
from cluster.spare_router import ROUTER
from deployments.settings import HealthSettings, SpilloverSettings
from serve_app.gateway.routing.placement import LOST, PlacedModel
from serve_app.gateway.routing.silent_replicas import SilentReplicas

pytestmark = pytest.mark.alone

WITHIN_S = 60.0


class Worker:
    """Says which process it is."""

    async def report(self) -> int:
        return os.getpid()


@pytest.fixture(scope="module")
def handle() -> Iterator[Any]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": 0}, proxy_location="Disabled")
    settings: dict[str, Any] = {"request_router_class": ROUTER, "request_router_kwargs": {"spare": 1}}
    worker: Any = serve.deployment(
        num_replicas=2,
        ray_actor_options={"num_cpus": 0},
        request_router_config=RequestRouterConfig(**settings),
        health_check_period_s=1,  # which notices that a replica was killed
        health_check_timeout_s=600,  # and does not end one that stands still
    )(Worker)
    yield serve.run(worker.bind(), name="spare", route_prefix=None)
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


async def both(handle: Any) -> None:
    """Waits until this process knows two replicas."""
    deadline = time.monotonic() + WITHIN_S
    while len(replica_ids(handle)) < 2:
        assert time.monotonic() < deadline, "the replicas did not come"
        await asyncio.sleep(0.1)


def placed(handle: Any) -> PlacedModel:
    spillover = SpilloverSettings()
    silent = SilentReplicas(handle, spillover.life_sign_s)
    return PlacedModel("worker", "cpu", handle, spillover, HealthSettings(), silent=silent.found)


def test_one_replica_works_and_the_spare_one_takes_over_when_it_is_killed(handle: Any) -> None:
    async def ask() -> None:
        await handle.report.remote()
        await both(handle)
        working = {await handle.report.remote() for _ in range(20)}
        assert len(working) == 1
        (first,) = working
        os.kill(first, signal.SIGKILL)
        taken: set[int] = set()
        deadline = time.monotonic() + WITHIN_S
        while not taken - working:
            assert time.monotonic() < deadline, "the spare replica does not answer"
            try:
                taken.add(await handle.report.remote())
            except LOST:
                continue
        await both(handle)
        assert {await handle.report.remote() for _ in range(20)} == taken - working

    asyncio.run(ask())


def test_requests_leave_a_replica_that_stands_still(handle: Any) -> None:
    async def ask() -> None:
        await both(handle)
        worker = placed(handle)
        first = await worker.call("report", last=True)
        os.kill(first, signal.SIGSTOP)
        try:
            second = await worker.call("report", last=True)
            assert second != first
            assert {await worker.call("report", last=True) for _ in range(10)} == {second}
        finally:
            os.kill(first, signal.SIGCONT)

    asyncio.run(ask())
